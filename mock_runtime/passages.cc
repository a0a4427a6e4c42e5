// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/passages.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace lldd::mock {

void PeerPassage::Open(LinkPage page) {
    MutexLock lock(mutex_);
    page_ = std::move(page);
    own_side().alive.store(1, std::memory_order_seq_cst);
}

bool PeerPassage::is_open() const {
    MutexLock lock(mutex_);
    return static_cast<bool>(page_);
}

void PeerPassage::SetProcess(const PeerProcess &process) {
    MutexLock lock(mutex_);
    process_ = process;
}

PeerProcess PeerPassage::process() const {
    MutexLock lock(mutex_);
    return process_;
}

void PeerPassage::PeerGone() {
    peer_gone_.store(true);
    MutexLock lock(mutex_);
    if (page_) StopWaiting(own_side());
}

// Nobody will say that the peer is gone: its process is looked for. One that cannot be seen is waited
// for, since here it is this end that has closed the connection.
void PeerPassage::Closed() {
    closed_.store(true);
    if (process().CanBeSeen()) PeerGone();
}

bool PeerPassage::WaitUntilLeft(const Deadline &deadline) {
    return WaitForPassage(own_side(), peer_gone_, process(), deadline);
}

void Passages::Add(std::shared_ptr<PeerPassage> passage) {
    MutexLock lock(mutex_);
    const uint64_t mark = passage->mark();
    passages_.emplace(mark, std::move(passage));
}

void Passages::Remove(const std::shared_ptr<PeerPassage> &passage) {
    MutexLock lock(mutex_);
    const auto [first, last] = passages_.equal_range(passage->mark());
    const auto found =
        std::find_if(first, last, [&](const auto &entry) { return entry.second == passage; });
    if (found != last) passages_.erase(found);
}

size_t Passages::size() const {
    MutexLock lock(mutex_);
    return passages_.size();
}

size_t Passages::CountInside() const {
    MutexLock lock(mutex_);
    return static_cast<size_t>(
        std::count_if(passages_.begin(), passages_.end(),
                      [](const auto &entry) { return IsInside(entry.second->own_side()); }));
}

std::shared_ptr<PeerPassage> Passages::WaitForClosed(uint64_t peer, const Deadline &deadline) {
    std::vector<std::shared_ptr<PeerPassage>> closed;
    {
        MutexLock lock(mutex_);
        for (const auto &entry : passages_) {
            if (entry.second->closed() && entry.second->peer() == peer)
                closed.push_back(entry.second);
        }
    }
    for (const auto &passage : closed) {
        if (!passage->WaitUntilLeft(deadline)) return passage;
        Remove(passage);
    }
    return nullptr;
}

std::shared_ptr<PeerPassage> Passages::WaitUntilLeft(uint64_t order, const Deadline &deadline) {
    std::vector<std::shared_ptr<PeerPassage>> inside;
    {
        MutexLock lock(mutex_);
        // Peers that linked before the registration do not know the region.
        for (auto link = passages_.upper_bound(order); link != passages_.end(); ++link) {
            if (IsInside(link->second->own_side())) inside.push_back(link->second);
        }
    }
    const auto still = std::find_if(inside.begin(), inside.end(), [&](const auto &passage) {
        return !passage->WaitUntilLeft(deadline);
    });
    return still == inside.end() ? nullptr : *still;
}

}  // namespace lldd::mock
