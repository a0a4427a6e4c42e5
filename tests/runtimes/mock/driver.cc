// Runs one case of the runtime's tests: driver <case>, or lists them: driver list. The copy kernels
// that this CPU can run: driver kernels.
//
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "mock_runtime/copy_kernels.h"
#include "side.h"

int main(int argc, char **argv) {
    using namespace lldd::test;
    if (argc == 3 && std::strcmp(argv[1], "peer") == 0) return ServeCommands(std::atoi(argv[2]));
    if (argc != 2) return 2;
    if (std::strcmp(argv[1], "kernels") == 0) {
        std::puts(lldd::mock::UsableCopyKernels().c_str());
        return 0;
    }
    for (const auto *cases : {&kTransferCases, &kFailureCases, &kLocalCases}) {
        for (const NamedCase &named : *cases) {
            if (std::strcmp(argv[1], "list") == 0) {
                std::puts(named.name);
            } else if (std::strcmp(argv[1], named.name) == 0) {
                named.run();
                return 0;
            }
        }
    }
    return std::strcmp(argv[1], "list") == 0 ? 0 : 2;
}
