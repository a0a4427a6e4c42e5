// The program that has all targets in it. With libFuzzer (LLDD_LIBFUZZER) it fuzzes the one that
// LLDD_FUZZ_TARGET names. Otherwise:
//
//   replay list               the names of the targets, one per line
//   replay seeds FOLDER       writes the seeds of each target into a folder of its name
//   replay TARGET [PATH...]   runs the target on files, and on all files of folders; standard input
//                             without any
//
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <string>

#include "target.h"

namespace lldd::fuzz {
namespace {

std::map<std::string, Target> &AllTargets() {
    static std::map<std::string, Target> targets;
    return targets;
}

const Target &TargetOf(const std::string &name) {
    const auto found = AllTargets().find(name);
    if (found != AllTargets().end()) return found->second;
    std::fprintf(stderr, "there is no target \"%s\"; there are:", name.c_str());
    for (const auto &each : AllTargets()) std::fprintf(stderr, " %s", each.first.c_str());
    std::fprintf(stderr, "\n");
    std::exit(2);
}

}  // namespace

Registration::Registration(const Target &target) { AllTargets().emplace(target.name, target); }

void Finding(const char *file, int line, const std::string &what) {
    std::fprintf(stderr, "%s:%d: FINDING: %s\n", file, line, what.c_str());
    std::abort();
}

}  // namespace lldd::fuzz

#ifdef LLDD_LIBFUZZER

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const lldd::fuzz::Target &target = [&]() -> const lldd::fuzz::Target & {
        const char *name = std::getenv("LLDD_FUZZ_TARGET");
        return lldd::fuzz::TargetOf(name == nullptr ? "" : name);
    }();
    target.run({reinterpret_cast<const char *>(data), size});
    return 0;
}

#else

namespace lldd::fuzz {
namespace {

void RunStream(const Target &target, std::istream &in) {
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    // A copy of exactly that size, so that a sanitizer sees a read past the end.
    const std::vector<char> input(bytes.begin(), bytes.end());
    target.run({input.data(), input.size()});
}

size_t RunPath(const Target &target, const std::filesystem::path &path) {
    if (!std::filesystem::is_directory(path)) {
        std::ifstream file(path, std::ios::binary);
        if (!file) {
            std::fprintf(stderr, "%s cannot be read\n", path.c_str());
            std::exit(2);
        }
        RunStream(target, file);
        return 1;
    }
    size_t count = 0;
    for (const auto &entry : std::filesystem::directory_iterator(path))
        count += RunPath(target, entry.path());
    return count;
}

void WriteSeeds(const std::filesystem::path &folder) {
    for (const auto &[name, target] : AllTargets()) {
        std::filesystem::create_directories(folder / name);
        size_t number = 0;
        for (const std::string &seed : target.seeds()) {
            const auto path = folder / name / ("seed-" + std::to_string(number++));
            std::ofstream(path, std::ios::binary) << seed;
        }
    }
}

int Main(int argc, char **argv) {
    const std::string verb = argc < 2 ? "list" : argv[1];
    if (verb == "list") {
        for (const auto &each : AllTargets()) std::printf("%s\n", each.first.c_str());
        return 0;
    }
    if (verb == "seeds" && argc == 3) {
        WriteSeeds(argv[2]);
        return 0;
    }
    const Target &target = TargetOf(verb);
    if (argc == 2) {
        RunStream(target, std::cin);
        return 0;
    }
    size_t count = 0;
    for (int i = 2; i < argc; ++i) count += RunPath(target, argv[i]);
    std::printf("%s: %zu inputs\n", verb.c_str(), count);
    return 0;
}

}  // namespace
}  // namespace lldd::fuzz

int main(int argc, char **argv) { return lldd::fuzz::Main(argc, argv); }

#endif
