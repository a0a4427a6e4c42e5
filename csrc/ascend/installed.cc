// SPDX-License-Identifier: Apache-2.0
#include "ascend/installed.h"

#include <dlfcn.h>
#include <elf.h>
#include <glob.h>
#include <link.h>

#include <cctype>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

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

// Whether the line is "...version=[9.1.0:...]" of a toolkit's version file.
bool TakeVersion(const std::string &line, HixlVersion *version) {
    const size_t equals = line.find('=');
    if (equals == std::string::npos) return false;
    std::string key = line.substr(0, equals);
    while (!key.empty() && std::isspace(static_cast<unsigned char>(key.back())) != 0)
        key.pop_back();
    for (char &letter : key)
        letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
    constexpr char kKey[] = "version";
    const size_t size = sizeof kKey - 1;
    if (key.size() < size || key.compare(key.size() - size, size, kKey) != 0) return false;
    const size_t begin = line.find_first_of("0123456789", equals);
    if (begin == std::string::npos) return false;
    const std::string text = line.substr(begin, line.find_first_of("]: \t\r", begin) - begin);
    if (std::sscanf(text.c_str(), "%d.%d", &version->major, &version->minor) != 2) return false;
    version->text = text;
    version->known = true;
    return true;
}

bool ReadVersionFiles(const std::string &root, HixlVersion *version) {
    for (const char *pattern :
         {"/version.cfg", "/version.info", "/*/version.info", "/*/*/version.info", "/*/*.info"}) {
        glob_t found{};
        bool taken = false;
        if (glob((root + pattern).c_str(), 0, nullptr, &found) == 0) {
            for (size_t i = 0; i < found.gl_pathc && !taken; ++i) {
                std::ifstream file(found.gl_pathv[i]);
                std::string line;
                while (!taken && std::getline(file, line)) taken = TakeVersion(line, version);
            }
        }
        globfree(&found);
        if (taken) return true;
    }
    return false;
}

// Whether the library exports a member of the class Hixl of that name, whatever its parameters are:
// its mangled name begins so. The file is read, since a symbol can only be looked up whole.
bool Exports(const std::string &library, const std::string &beginning) {
    std::ifstream file(library, std::ios::binary);
    const std::string content((std::istreambuf_iterator<char>(file)),
                              std::istreambuf_iterator<char>());
    return content.find(std::string(1, '\0') + beginning) != std::string::npos;
}

HixlVersion FindVersion() {
    HixlVersion version;
    const std::string library = HixlLibrary();
    // <root>/lib64/libcann_hixl.so, or <root>/x86_64-linux/lib64/libcann_hixl.so
    std::string folder = library;
    for (int up = 0; up < 3; ++up) {
        const size_t slash = folder.rfind('/');
        if (slash == std::string::npos) break;
        folder.resize(slash);
        if (up > 0 && ReadVersionFiles(folder, &version)) return version;
    }
    if (!library.empty() && Exports(library, "_ZN4hixl4Hixl12ConnectAsyncE"))
        version = {true, 9, 1, "9.1 or later"};
    return version;
}

}  // namespace

std::string HixlLibrary() {
    std::string path;
    dl_iterate_phdr(TakeIfHixl, &path);
    return path;
}

const HixlVersion &InstalledHixl() {
    static const auto *const version = new HixlVersion(FindVersion());
    return *version;
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
