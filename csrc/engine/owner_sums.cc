// SPDX-License-Identifier: Apache-2.0
#include "engine/owner_sums.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/checksum.h"
#include "base/io_thread.h"
#include "base/thread.h"
#include "engine/verify.h"

namespace lldd {

OwnerSums::~OwnerSums() {
    if (!thread_.joinable()) return;
    {
        const MutexLock lock(mutex_);
        stopping_.store(true);
        changed_.notify_all();
    }
    thread_.join();
}

void OwnerSums::Ask(const std::shared_ptr<Link> &link, uint32_t request_id, wire::Sums asked) {
    LLDD_ON_IO_THREAD(*loop_);
    const Status taken = Take(link, request_id, std::move(asked));
    if (taken.ok()) return;
    wire::SumsReply reply;
    reply.status = wire::StatusBody::Of(taken);
    link->channel().Answer(wire::kSums, request_id, reply.Encode());
}

Status OwnerSums::Take(const std::shared_ptr<Link> &link, uint32_t request_id, wire::Sums asked) {
    if (!thread_.joinable()) {
        try {
            thread_ = StartThread("lldd-sums", [this] { Run(); });
        } catch (const std::system_error &error) {
            return Failure(LLDD_FAILED, "no thread can be started: %s", error.what());
        }
    }
    const MutexLock lock(mutex_);
    const auto waiting =
        std::count_if(requests_.begin(), requests_.end(),
                      [&](const Request &request) { return request.of == link.get(); });
    if (static_cast<size_t>(waiting) >= kMostPerLink) {
        return Failure(LLDD_FAILED, "%zu requests of this link wait already, allowed are %zu",
                       static_cast<size_t>(waiting), kMostPerLink);
    }
    requests_.push_back({link, link.get(), request_id, std::move(asked)});
    changed_.notify_all();
    return Status::Ok();
}

void OwnerSums::Run() {
    const std::unique_ptr<char[]> chunk(new char[kSumChunk]);
    UniqueLock lock(mutex_);
    for (;;) {
        if (stopping_.load()) return;
        if (requests_.empty()) {
            changed_.wait(lock.native());
            continue;
        }
        const Request request = std::move(requests_.front());
        requests_.pop_front();
        lock.Unlock();
        if (const std::shared_ptr<Link> link = request.link.lock()) {
            const wire::SumsReply reply = Summed(*link, request.asked, chunk.get());
            link->channel().Answer(wire::kSums, request.id, reply.Encode());
        }
        lock.Lock();
    }
}

wire::SumsReply OwnerSums::Summed(const Link &link, const wire::Sums &asked, char *chunk) const {
    wire::SumsReply reply;
    Connection *const connection = link.connection();
    for (const wire::Sums::Range &range : asked.ranges) {
        Checksum sum;
        for (uint64_t done = 0; done < range.length;) {
            Status read = Status::Ok();
            if (stopping_.load() || link.peer_gone() || connection == nullptr) {
                read = Failure(LLDD_FAILED, "the link is ending");
            }
            const uint64_t part = std::min(range.length - done, kSumChunk);
            if (read.ok()) read = connection->ReadForPeer(range.addr + done, part, chunk);
            if (!read.ok()) {
                reply.status = wire::StatusBody::Of(read);
                reply.sums.clear();
                return reply;
            }
            sum.Add(chunk, part);
            done += part;
        }
        reply.sums.push_back(sum.Sum());
    }
    return reply;
}

}  // namespace lldd
