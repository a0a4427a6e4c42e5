// SPDX-License-Identifier: Apache-2.0
#include "engine/owner_pins.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/codec.h"
#include "engine/peer_table.h"

namespace lldd {
namespace {

// At most this many requests of one link are kept; a puller has one.
constexpr long kMostPinsOfOne = 64;

}  // namespace

Status OwnerPins::Find(const lldd_cache_key &key, NamedEntry *entry) const {
    std::optional<NamedEntry> found;
    const std::optional<KeyTarget> target = TargetOfPull(key);
    if (target.has_value() && target->name.has_value()) {
        found = store_->Find(*target->name);
    } else if (target.has_value()) {
        found = store_->Find(target->cache_id, target->batch_index.value_or(0));
        // A batch index that is out of range is not found either.
        if (found.has_value() && found->batch_index >= found->cache->shape.batch_size())
            found.reset();
    }
    if (found.has_value()) {
        *entry = *std::move(found);
        return Status::Ok();
    }
    return Failure(LLDD_KV_CACHE_NOT_EXIST, "the peer has no cache under %s; it has %s",
                   KeyText(key).c_str(), store_->DescribeBlocks().c_str());
}

void OwnerPins::Resolve(const void *holder, const wire::Resolve &resolve, Answer answer) {
    const PinName name(holder, resolve.pin);
    // A puller has one request at a time; what is left of earlier ones, it released.
    const auto of_holder = [holder](const auto &requests) {
        return std::distance(requests.lower_bound(PinName(holder, 0)),
                             requests.upper_bound(PinName(holder, UINT64_MAX)));
    };
    if (of_holder(pins_) + of_holder(waits_for_) >= kMostPinsOfOne || pins_.count(name) != 0 ||
        waits_for_.count(name) != 0) {
        wire::ResolveReply reply;
        reply.status = wire::StatusBody::Of(Failure(LLDD_FAILED, "too many requests of one link"));
        answer(reply);
        return;
    }
    Serve(name, resolve.key, std::move(answer));
}

void OwnerPins::Serve(const PinName &name, const lldd_cache_key &key, Answer answer) {
    NamedEntry entry;
    const Status status = Find(key, &entry);
    wire::ResolveReply reply;
    if (!status.ok()) {
        reply.status = wire::StatusBody::Of(status);
        answer(reply);
        return;
    }
    if (entry.consumable.has_value()) {
        const auto taken = taken_.find(*entry.consumable);
        if (taken != taken_.end()) {
            taken->second.push_back({name, key, std::move(answer)});
            waits_for_.emplace(name, taken->first);
            return;
        }
    }
    reply.batch_index = entry.batch_index;
    reply.owner_has_device_pool = has_device_pool_;
    Writer writer;
    EncodeCache(*entry.cache, &writer);
    reply.cache = writer.Take();
    if (entry.consumable.has_value()) taken_.try_emplace(*entry.consumable);
    pins_.emplace(name, Pin{std::move(entry)});
    answer(reply);
}

void OwnerPins::Release(const void *holder, const wire::Release &release) {
    const PinName name(holder, release.pin);
    StopWaiting(name);
    const auto found = pins_.find(name);
    if (found == pins_.end()) return;
    const Pin pin = std::move(found->second);
    pins_.erase(found);
    if (release.done && pin.entry.consumable.has_value()) UseUp(pin.entry, release);
    ServeWaiting(pin);
}

void OwnerPins::StopWaiting(const PinName &name) {
    const auto waits = waits_for_.find(name);
    if (waits == waits_for_.end()) return;
    taken_.at(waits->second).remove_if([&](const Waiting &waiting) {
        return waiting.name == name;
    });
    waits_for_.erase(waits);
}

void OwnerPins::UseUp(const NamedEntry &entry, const wire::Release &release) {
    // NOLINTNEXTLINE(bugprone-unchecked-optional-access): only a consumable entry is used up.
    const CacheName &name = *entry.consumable;
    const uint64_t num_tensors = entry.cache->shape.num_tensors;
    if (release.num_tensors != 0) {
        const auto fresh =
            Remaining{entry.cache->id, std::vector<bool>(num_tensors, true), num_tensors};
        Remaining &remaining = remaining_.emplace(name, fresh).first->second;
        if (remaining.cache_id != entry.cache->id) remaining = fresh;
        const uint64_t end =
            std::min<uint64_t>(uint64_t{release.first_tensor} + release.num_tensors, num_tensors);
        for (uint64_t tensor = release.first_tensor; tensor < end; ++tensor) {
            if (!remaining.tensors[tensor]) continue;
            remaining.tensors[tensor] = false;
            --remaining.count;
        }
        if (remaining.count != 0) {
            SweepRemaining();
            return;
        }
    }
    remaining_.erase(name);
    // The client may have given the name to another cache meanwhile.
    const std::optional<NamedEntry> now = store_->Find(name);
    if (now.has_value() && now->cache == entry.cache) store_->RemoveKey(name);
}

// Drops the entries of keys that the client removed after a part of them was pulled.
void OwnerPins::SweepRemaining() {
    if (remaining_.size() < swept_at_) return;
    for (auto entry = remaining_.begin(); entry != remaining_.end();) {
        const std::optional<NamedEntry> now = store_->Find(entry->first);
        const bool gone = !now.has_value() || now->cache->id != entry->second.cache_id;
        entry = gone ? remaining_.erase(entry) : std::next(entry);
    }
    swept_at_ = std::max(kSweepFrom, 2 * remaining_.size());
}

void OwnerPins::Drop(const void *holder) {
    const PinName first(holder, 0);
    const PinName last(holder, UINT64_MAX);
    for (auto waits = waits_for_.lower_bound(first);
         waits != waits_for_.end() && waits->first <= last; waits = waits_for_.lower_bound(first)) {
        StopWaiting(PinName(waits->first));
    }
    for (auto place = pins_.lower_bound(first); place != pins_.end() && place->first <= last;
         place = pins_.lower_bound(first)) {
        const Pin pin = std::move(place->second);
        pins_.erase(place);
        ServeWaiting(pin);
    }
}

// A key is free again. The first request that waited pins it, and the others go on waiting in the
// old order; if the key is gone, all of them are answered that.
void OwnerPins::ServeWaiting(const Pin &ended) {
    if (!ended.entry.consumable.has_value()) return;
    const auto taken = taken_.find(*ended.entry.consumable);
    std::list<Waiting> queued = std::move(taken->second);
    taken_.erase(taken);
    for (Waiting &waiting : queued) waits_for_.erase(waiting.name);
    for (Waiting &waiting : queued) Serve(waiting.name, waiting.key, std::move(waiting.answer));
}

}  // namespace lldd
