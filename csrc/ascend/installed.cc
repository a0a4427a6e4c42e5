// SPDX-License-Identifier: Apache-2.0
#include "ascend/installed.h"

#include <dlfcn.h>
#include <link.h>

#include <cstring>

namespace lldd::ascend {
namespace {

constexpr char kHixl[] = "libcann_hixl.so";
constexpr char kHcomm[] = "libhcomm.so";

// The part behind the last slash.
const char *FileName(const char *path) {
    const char *slash = std::strrchr(path, '/');
    return slash == nullptr ? path : slash + 1;
}

int TakeIfHixl(dl_phdr_info *info, size_t, void *path) {
    const char *name = info->dlpi_name == nullptr ? "" : info->dlpi_name;
    // With a version behind it, too: libcann_hixl.so.1.
    if (std::strncmp(FileName(name), kHixl, sizeof kHixl - 1) != 0) return 0;
    *static_cast<std::string *>(path) = name;
    return 1;
}

}  // namespace

std::string HixlLibrary() {
    std::string path;
    dl_iterate_phdr(TakeIfHixl, &path);
    return path;
}

// It stays loaded: HIXL keeps what it finds in it.
Status OpenHcomm() {
    const std::string hixl = HixlLibrary();
    const size_t slash = hixl.rfind('/');
    const std::string folder = slash == std::string::npos ? "" : hixl.substr(0, slash + 1);
    if (dlopen((folder + kHcomm).c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr) return Status::Ok();
    const char *why = dlerror();
    return Failure(LLDD_FAILED,
                   "HIXL (%s) needs %s, which cannot be loaded from beside it: %s. Source the "
                   "toolkit's set_env.sh before this process starts",
                   hixl.c_str(), kHcomm, why == nullptr ? "no reason" : why);
}

}  // namespace lldd::ascend
