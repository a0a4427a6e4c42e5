// SPDX-License-Identifier: Apache-2.0
#include "engine/owner_service.h"

#include <string>
#include <utility>

#include "base/io_thread.h"
#include "base/status.h"
#include "engine/peer_table.h"

namespace lldd {

bool OwnerService::OnRequest(const std::shared_ptr<Link> &link, uint16_t kind, uint32_t request_id,
                             std::string_view body) {
    LLDD_ON_IO_THREAD(*loop_);
    switch (kind) {
        case wire::kTable: {
            const bool fits = PeerTable::EncodedBytes(store_->TableSize()) <= wire::kMaxBody;
            link->channel().Answer(kind, request_id,
                                   fits ? PeerTable::Encode(store_->Table()) : std::string());
            return true;
        }
        case wire::kResolve: {
            wire::Resolve resolve;
            if (!resolve.Decode(body)) return false;
            OnResolve(link, request_id, resolve);
            return true;
        }
        case wire::kRelease: {
            wire::Release release;
            if (!release.Decode(body)) return false;
            pins_.Release(link.get(), release);
            link->channel().Answer(kind, request_id, {});
            return true;
        }
        case wire::kLocate: {
            wire::Locate locate;
            if (!locate.Decode(body)) return false;
            link->channel().Answer(kind, request_id, Locate(locate).Encode());
            return true;
        }
        case wire::kSums: {
            wire::Sums sums;
            if (!sums.Decode(body)) return false;
            sums_.Ask(link, request_id, std::move(sums));
            return true;
        }
        default: return false;
    }
}

void OwnerService::OnLinkDown(const Link &link) {
    LLDD_ON_IO_THREAD(*loop_);
    pins_.Drop(&link);
}

void OwnerService::OnResolve(const std::shared_ptr<Link> &link, uint32_t request_id,
                             const wire::Resolve &resolve) {
    pins_.Resolve(link.get(), resolve,
                  [weak = std::weak_ptr<Link>(link), request_id](const auto &reply) {
                      const std::shared_ptr<Link> asking = weak.lock();
                      if (asking != nullptr)
                          asking->channel().Answer(wire::kResolve, request_id, reply.Encode());
                  });
}

wire::LocateReply OwnerService::Locate(const wire::Locate &locate) const {
    wire::LocateReply reply;
    for (const uint64_t addr : locate.addrs) {
        const TensorThere there = store_->At(addr);
        if (there.end == 0) {
            reply.places.clear();
            reply.status = wire::StatusBody::Of(
                Failure(LLDD_PARAM_INVALID, "address 0x%llx lies in no cache of the peer",
                        Printable(addr)));
            return reply;
        }
        reply.places.push_back({there.end, there.data_type});
    }
    return reply;
}

}  // namespace lldd
