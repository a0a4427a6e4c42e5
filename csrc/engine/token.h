// What lldd_token is: the wish of a client that transfers end.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/interruption.h"
#include "llm_datadist.h"

struct lldd_token {
    lldd::Interruption interruption;
};
