// SPDX-License-Identifier: Apache-2.0
#include "engine/verify.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>

#include "base/checksum.h"
#include "engine/wire.h"

namespace lldd {
namespace {

constexpr char kVariable[] = "LLM_DATADIST_VERIFY";
// What one sum is of at most: it says where the difference is.
constexpr uint64_t kMostSummed = 4u << 20;
static_assert(kMostSummed <= wire::Sums::kMostBytes);

// Where an address of a cache lies in it.
class Places {
public:
    explicit Places(const Cache &cache) : cache_(cache) {}

    // False: in no tensor of the cache, which no plan does.
    bool Find(uint64_t addr) {
        const size_t count = cache_.addrs.size();
        // Neighbouring runs lie in the same tensor, or in the next one.
        for (size_t i = 0; i < count; ++i) {
            const size_t candidate = (tensor_ + i) % count;
            if (addr - cache_.addrs[candidate] >= cache_.shape.tensor_bytes) continue;
            tensor_ = candidate;
            index_ = (addr - cache_.addrs[candidate]) / cache_.shape.stride();
            return true;
        }
        return false;
    }
    uint64_t EndOfStride() const {
        return cache_.addrs[tensor_] + (index_ + 1) * cache_.shape.stride();
    }
    std::string Text(uint32_t tensors_per_layer) const {
        return Format("layer %zu, tensor %zu, %s %llu of cache %lld", tensor_ / tensors_per_layer,
                      tensor_, cache_.shape.blocks ? "block" : "batch entry", Printable(index_),
                      Printable(cache_.id));
    }

private:
    const Cache &cache_;
    size_t tensor_ = 0;
    uint64_t index_ = 0;
};

// The runs cut where blocks or batch entries of the own cache end.
std::vector<Run> Cut(const Moved &moved) {
    std::vector<Run> pieces;
    pieces.reserve(moved.runs.size());
    Places places(moved.local);
    for (Run rest : moved.runs) {
        while (rest.length > 0) {
            uint64_t taken = std::min(rest.length, kMostSummed);
            if (places.Find(rest.local)) taken = std::min(taken, places.EndOfStride() - rest.local);
            pieces.push_back({rest.local, rest.remote, taken});
            rest.local += taken;
            rest.remote += taken;
            rest.length -= taken;
        }
    }
    return pieces;
}

// Runs may repeat a destination, and their order is free: which of them it has is not known.
void LeaveOutWhatIsWrittenTwice(bool to_local, std::vector<Run> *pieces) {
    const auto start = [&](size_t i) {
        return to_local ? (*pieces)[i].local : (*pieces)[i].remote;
    };
    std::vector<size_t> order(pieces->size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return start(a) < start(b); });
    std::vector<bool> twice(pieces->size());
    size_t furthest = 0;  // of those looked at, the one that ends last
    uint64_t last = 0;    // its last byte
    for (size_t place = 0; place < order.size(); ++place) {
        const size_t i = order[place];
        const uint64_t its_last = start(i) + ((*pieces)[i].length - 1);
        if (place > 0 && start(i) <= last) twice[i] = twice[furthest] = true;
        if (place > 0 && its_last <= last) continue;
        furthest = i;
        last = its_last;
    }
    size_t kept = 0;
    for (size_t i = 0; i < pieces->size(); ++i) {
        if (!twice[i]) (*pieces)[kept++] = (*pieces)[i];
    }
    pieces->resize(kept);
}

class Comparison {
public:
    Comparison(Device *device, const Moved &moved, const Deadline &deadline)
        : device_(device), moved_(moved), deadline_(deadline), chunk_(new char[kSumChunk]) {}

    Status Compare(const Run *pieces, size_t count) {
        own_.clear();
        wire::Sums asked;
        for (size_t i = 0; i < count; ++i) {
            asked.ranges.push_back({pieces[i].remote, pieces[i].length});
            LLDD_RETURN_IF_ERROR(SumOwn(pieces[i]));
        }
        std::string answer;
        const Status called =
            moved_.link->channel().Call(wire::kSums, asked.Encode(), deadline_, &answer);
        if (!called.ok()) return NotInTime(called.text().c_str());
        wire::SumsReply reply;
        if (!reply.Decode(answer)) return Failure(LLDD_FAILED, "the peer's answer cannot be read");
        LLDD_RETURN_IF_ERROR(reply.status.ToStatus().WithPrefix("checksums of the peer: "));
        if (reply.sums.size() != count)
            return Failure(LLDD_FAILED, "the peer's answer cannot be read");
        for (size_t i = 0; i < count; ++i) {
            if (own_[i] != reply.sums[i]) return Differs(pieces[i], own_[i], reply.sums[i]);
        }
        return Status::Ok();
    }

private:
    Status SumOwn(const Run &piece) {
        Checksum sum;
        for (uint64_t done = 0; done < piece.length;) {
            const auto now = Deadline::Clock::now();
            watch_.Look(deadline_, now);
            if (deadline_.passed(now)) return NotInTime("the own side is not summed yet");
            const uint64_t part = std::min(piece.length - done, kSumChunk);
            LLDD_RETURN_IF_ERROR(device_->ReadOwn(piece.local + done, part, chunk_.get()));
            sum.Add(chunk_.get(), part);
            done += part;
        }
        own_.push_back(sum.Sum());
        return Status::Ok();
    }

    static Status NotInTime(const char *why) {
        return Failure(LLDD_TIMEOUT,
                       "everything was moved, but the checksums (%s) were not compared: %s",
                       kVariable, why);
    }

    Status Differs(const Run &piece, uint64_t own, uint64_t peers) const {
        Places places(moved_.local);
        const bool found = places.Find(piece.local);
        return Failure(
            LLDD_FAILED,
            "the checksums of source and destination differ (%s), first at %s: the %llu bytes at "
            "0x%llx of this engine have %016llx, those at 0x%llx of %s have %016llx",
            kVariable, found ? places.Text(moved_.tensors_per_layer).c_str() : "no tensor",
            Printable(piece.length), Printable(piece.local), Printable(own),
            Printable(piece.remote), moved_.link->peer_name().c_str(), Printable(peers));
    }

    Device *const device_;
    const Moved &moved_;
    const Deadline &deadline_;
    const std::unique_ptr<char[]> chunk_;
    std::vector<uint64_t> own_;
    CallerWatch watch_;
};

}  // namespace

Status VerifyOn(Device *device, Device **verified_on) {
    *verified_on = nullptr;
    const char *const text = std::getenv(kVariable);
    if (text == nullptr || text[0] == '\0' || std::strcmp(text, "0") == 0) return Status::Ok();
    if (std::strcmp(text, "1") != 0)
        return Failure(LLDD_PARAM_INVALID, "%s is \"%s\", allowed is 0 or 1", kVariable, text);
    if (!device->ReadsOwnMemory()) {
        return Failure(LLDD_FEATURE_NOT_ENABLED,
                       "%s is 1, but this device does not read memory for checksums: unset it, or "
                       "use the mock runtime",
                       kVariable);
    }
    *verified_on = device;
    return Status::Ok();
}

Status Verify(Device *device, const Moved &moved, const Deadline &deadline) {
    std::vector<Run> pieces = Cut(moved);
    LeaveOutWhatIsWrittenTwice(moved.to_local, &pieces);
    Comparison comparison(device, moved, deadline);
    for (size_t first = 0; first < pieces.size();) {
        size_t next = first;
        uint64_t bytes = 0;
        while (next < pieces.size() && next - first < wire::Sums::kMostRanges &&
               bytes + pieces[next].length <= wire::Sums::kMostBytes) {
            bytes += pieces[next++].length;
        }
        LLDD_RETURN_IF_ERROR(comparison.Compare(&pieces[first], next - first));
        first = next;
    }
    return Status::Ok();
}

}  // namespace lldd
