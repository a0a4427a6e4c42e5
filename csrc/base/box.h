// The black box of an engine: a file, mapped into the process, in which it writes down what it was
// asked, so that it can be read when the process is gone, however it went.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/box_format.h"
#include "base/mutex.h"
#include "base/status.h"

namespace lldd {

// CLOCK_MONOTONIC.
int64_t MonotonicNs();

// The variables that switch it on.
constexpr char kBoxVariable[] = "LLM_DATADIST_BOX";
constexpr char kBoxCallsVariable[] = "LLM_DATADIST_BOX_CALLS";

// Thread-safe. Writing makes no system call and allocates nothing, except Tell.
class Box {
public:
    // Makes a file of its own in the folder that LLM_DATADIST_BOX names, which has to be there; `box`
    // stays null without one. LLDD_PARAM_INVALID names the variable and what is wrong with it.
    static Status OpenFromEnvironment(uint64_t cluster_id, const std::string &runtime,
                                      std::unique_ptr<Box> *box);
    ~Box();
    Box(const Box &) = delete;
    Box &operator=(const Box &) = delete;

    // Takes a slot for a record. Null: every slot that was tried is being written. The caller fills
    // it in, and ends with Commit; in between it may show its beginning with ShowBegun.
    box::Record *Begin(box::Ring ring);
    static void ShowBegun(box::Record *record);
    static void Commit(box::Record *record);
    // Of a record that is being written: what texts about it say.
    static uint64_t NumberOf(const box::Record &record);

    // Writes a text; what is longer than a thousand slots is cut.
    void Tell(box::Ring ring, std::string_view text, uint64_t about = 0) LLDD_EXCLUDES(mutex_);

    // 128 bits that no other transfer of any engine has.
    void NewId(uint64_t *high, uint64_t *low) {
        *high = header_->ids;
        *low = last_id_.fetch_add(1, std::memory_order_relaxed) + 1;
    }

    // How many tickets of a ring were given.
    uint64_t Begun(box::Ring ring) const {
        return header_->rings[ring].next.load(std::memory_order_acquire);
    }
    // Copies the record with that ticket, if it is whole.
    enum class Slot { kWhole, kUnderWay, kLost };
    Slot Read(box::Ring ring, uint64_t ticket, box::Call *call) const;

    // The engine ends in the regular way.
    void Close();
    const std::string &path() const { return path_; }
    // What the file has: for those that read on while it is being written.
    const box::Header &header() const { return *header_; }

private:
    Box(std::string path, char *memory, size_t size);
    template <typename Slot>
    Slot *Claim(box::Ring ring);

    const std::string path_;
    char *const memory_;
    const size_t size_;
    box::Header *const header_;
    std::atomic<uint64_t> last_id_{0};
    // So that the pieces of a text have tickets in a row.
    Mutex mutex_;
};

}  // namespace lldd
