// What an engine tells of itself when it makes a link, and how each end proves its right to it.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "base/box.h"
#include "base/status.h"
#include "engine/events.h"
#include "engine/link.h"
#include "engine/wire.h"

namespace lldd {

class BoxReports;

struct LinkOptions {
    uint64_t cluster_id = 0;
    uint32_t mode = 0;             // LLDD_MODE_*
    uint32_t link_style = 0;       // LLDD_LINK_STYLE_*
    std::string secret;            // that peers must also know; "": none
    uint32_t peer_timeout_ms = 0;  // after which a peer that does not answer is noticed; 0: never
    // Raised when the engine is closed; outlives every link. Null: it is not.
    const Interruption *closing = nullptr;
    TrafficTotals *totals = nullptr;    // see Link::Identity
    Events *events = nullptr;           // never null once there are links; outlives them
    Box *box = nullptr;                 // is told of links; null: there is none
    BoxReports *box_reports = nullptr;  // never null once links are made

    bool one_way() const { return link_style == LLDD_LINK_STYLE_ONE_WAY; }
    // A new greeting, with a nonce of its own.
    wire::Hello OwnHello() const;
    // Of a LinkRequest or LinkReply without its proof; "" without a secret.
    std::string ProofOf(const Link &link, LinkEnd sender, const std::string &message) const;
};

}  // namespace lldd
