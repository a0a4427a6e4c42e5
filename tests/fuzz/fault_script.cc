// Fault scripts, from an environment variable or a call.
//
// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/fault_script.h"

#include "target.h"

namespace lldd::fuzz {
namespace {

void DemandReadable(const mock::FaultRule &rule) {
    DEMAND(rule.points != 0 && rule.points < (1U << mock::kFaultPoints));
    DEMAND(rule.probability >= 0 && rule.probability <= 1);
    DEMAND(rule.every >= 1);
    DEMAND(rule.delay.count() >= 0 && rule.jitter.count() >= 0);
}

void Run(std::string_view input) {
    std::vector<mock::FaultRule> rules;
    const Status status = mock::ParseFaultScript(std::string(input), &rules);
    if (!status.ok()) {
        DEMAND(status.code() == LLDD_PARAM_INVALID && !status.text().empty() && rules.empty());
        return;
    }
    for (const mock::FaultRule &rule : rules) {
        DemandReadable(rule);
        std::vector<mock::FaultRule> again;
        DEMAND(mock::ParseFaultScript(rule.text, &again).ok());
        DEMAND(again.size() == 1);
        DEMAND(again[0].text == rule.text && again[0].points == rule.points);
        DEMAND(again[0].status == rule.status && again[0].after == rule.after);
        DEMAND(again[0].delay == rule.delay && again[0].bytes_per_second == rule.bytes_per_second);
    }
}

std::vector<std::string> Seeds() {
    return {"read status=LLM_LINK_BUSY after=3 times=1 peer=7",
            "read,write delay=20ms jitter=5ms bandwidth=100MB/s # slow\n",
            "* status=507053 probability=0.01 seed=4; confirm drop every=2", "close drop"};
}

const Registration kRegistered({"fault_script", Run, Seeds});

}  // namespace
}  // namespace lldd::fuzz
