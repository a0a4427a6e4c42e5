// libmetadef.so of the fake CANN: the strings of HIXL's interface, in a library of their own.
//
// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "graph/ascend_string.h"

namespace ge {

AscendString::AscendString(const char *text) : text_(std::make_shared<std::string>(text)) {}
const char *AscendString::GetString() const { return text_ == nullptr ? "" : text_->c_str(); }
bool AscendString::operator<(const AscendString &other) const {
    return std::strcmp(GetString(), other.GetString()) < 0;
}

}  // namespace ge
