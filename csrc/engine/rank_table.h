// Rank tables, compared by what they say.
//
// The members of one communicator write the same servers and devices in another order, with other
// white space or another order of keys. A table is JSON whose outermost value is an object; the
// order of its server_list, device and super_pod_list says nothing. What is not a table is compared
// as text.
//
// Members send each other the text, not the canonical form: each end compares both with its own
// rules, so members of different versions of this library agree or disagree by one form each.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "engine/lenient_json.h"

namespace lldd {

class RankTable {
public:
    explicit RankTable(std::string text);

    bool SaysTheSame(const RankTable &other) const { return canonical_ == other.canonical_; }
    // What this one, "here", and the other, "there", have differently: by server and device.
    std::string DifferenceTo(const RankTable &other) const;

private:
    std::string text_;
    bool is_table_ = false;
    JsonValue root_;
    std::string canonical_;  // the text where it is not a table
};

}  // namespace lldd
