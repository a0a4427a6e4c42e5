// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#include <fstream>
#include <sstream>
#include <string>

#include "errors.h"
#include "traits.h"

namespace hixl {
namespace {

using fake_cann::TheTraits;

bool IsObject(const std::string &text) {
    const size_t first = text.find_first_not_of(" \t\r\n");
    const size_t last = text.find_last_not_of(" \t\r\n");
    return first != std::string::npos && text[first] == '{' && text[last] == '}';
}

bool IsFileOfObject(const std::string &path) {
    const std::ifstream file(path);
    std::ostringstream content;
    content << file.rdbuf();
    return file && IsObject(content.str());
}

bool IsNumber(const std::string &text, int most, int step) {
    if (text.empty() || text.size() > 3) return false;
    if (text.find_first_not_of("0123456789") != std::string::npos) return false;
    const int number = std::stoi(text);
    return number <= most && number % step == 0;
}

bool IsPool(const std::string &text) {
    const size_t colon = text.find(':');
    return colon != std::string::npos && IsNumber(text.substr(0, colon), 999, 1) &&
           IsNumber(text.substr(colon + 1), 999, 1);
}

bool IsLegal(const std::string &key, const std::string &value) {
    if (key == "RdmaTrafficClass") return IsNumber(value, 255, 4);
    if (key == "RdmaServiceLevel") return IsNumber(value, 7, 1);
    if (key == "BufferPool") return IsPool(value);
    if (key == "EnableUseFabricMem") return value == "0" || value == "1";
    if (key == "GlobalResourceConfig")
        return TheTraits().config_is_a_path ? IsFileOfObject(value) : IsObject(value);
    const bool newer = TheTraits().knows_comm_res;
    if (newer && key == "LocalCommRes") return value.empty() || IsObject(value);
    if (newer && key == "AutoConnect") return value == "0" || value == "1";
    return !TheTraits().refuses_unknown_options;
}

}  // namespace

Status Options::Read(const std::map<AscendString, AscendString> &given, Options *options) {
    for (const auto &[name, text] : given) {
        const std::string key = name.GetString();
        const std::string value = text.GetString();
        if (!IsLegal(key, value)) return Refuse(PARAM_INVALID, "option " + key + " is " + value);
        if (key == "BufferPool") options->has_buffer_pool = value != "0:0";
        if (key == "LocalCommRes" && TheTraits().knows_comm_res)
            options->comm_1_3 = value.find("\"1.3\"") != std::string::npos;
    }
    return SUCCESS;
}

}  // namespace hixl
