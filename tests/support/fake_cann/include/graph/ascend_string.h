// The string of CANN's C++ interfaces, as this project declares it for its tests.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

namespace ge {

class AscendString {
public:
    AscendString() = default;
    AscendString(const char *text);  // NOLINT: implicit, as documented

    const char *GetString() const;
    bool operator<(const AscendString &other) const;

private:
    std::shared_ptr<std::string> text_;
};

}  // namespace ge
