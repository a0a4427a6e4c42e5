// What lldd_runtime_control can tell the mock runtime. Answers are text; a command that takes no
// argument ignores one.
//
//   help                     the commands, one line per command
//   environment              one line per variable that the runtime reads, with tabs between
//                            name, legal values, default and meaning
//   devices                  one line per device that is open in this process: pools,
//                            registrations, links
//   kernel                   "usable: NAMES\nchosen: NAME\n", the copy kernels of this CPU
//   threads                  "helpers: N\nallowed: N\n", the copying threads
//   memory                   "available: BYTES\nwhere: WORDS\n", what new memory may take, and whose
//                            limit that is: "on this machine", "in the control group FOLDER"
//   cpus                     "affinity: N\nquota: N\n", whole CPUs that copies may use; without a
//                            quota of a control group there is no such line
//   fds                      how many descriptors this process has open
//   fabric FABRIC BYTES      what LLM_DATADIST_MOCK_FABRIC=FABRIC does with blocks of so many bytes:
//                            "latency S\njitter S\nport R\n" and one line per direction, "D2rD R",
//                            in seconds and bytes per second; 0: it does not carry the direction
//   faults.set SCRIPT        the rules of the script instead of all that there are; an empty one
//                            takes all away
//   faults.add SCRIPT        adds the rules of the script; the answer names them: "4 5\n"
//   faults.remove IDS        takes rules away by the names that faults.add gave: "4 5"
//   faults.clear             takes all rules away, those of the environment included
//   faults.counters          one line per point, "point NAME CALLS FIRED", and one per rule,
//                            "rule ID CALLS FIRED TEXT"
//
// Scripts are explained in docs/faults.md. LLDD_PARAM_INVALID: no such command, or a bad argument.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/status.h"

namespace lldd::mock {

Status Control(const std::string &command, const std::string &argument, std::string *answer);

}  // namespace lldd::mock
