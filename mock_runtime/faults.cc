// SPDX-License-Identifier: Apache-2.0
#include "mock_runtime/faults.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <map>
#include <memory>
#include <random>
#include <utility>

#include "base/fd.h"
#include "base/fork.h"
#include "base/mutex.h"
#include "mock_runtime/ports.h"

namespace lldd::mock {

std::atomic<bool> fault_rules_set{false};

namespace {

using std::chrono::nanoseconds;

// Longer than any deadline, and short enough to be added to a point in time.
constexpr double kLongestSeconds = 1e6;
constexpr size_t kLongestScript = 1 << 20;
// Bytes per second: only its ports make a flow slower.
constexpr double kFastest = 1e18;

struct Counts {
    uint64_t calls = 0;
    uint64_t fired = 0;
};

struct ActiveRule {
    ActiveRule(FaultRule with_rule, uint64_t with_id)
        : rule(std::move(with_rule)), id(with_id), random(rule.seed) {}

    bool Fires() {
        ++counts.calls;
        if (counts.calls <= rule.after || counts.fired == rule.times) return false;
        if ((counts.calls - rule.after) % rule.every != 0) return false;
        if (rule.probability < 1 && NextFraction() >= rule.probability) return false;
        ++counts.fired;
        return true;
    }

    nanoseconds HoldUpFor(const FaultPointInfo &point, uint64_t bytes) {
        nanoseconds time{0};
        if (!point.waits) return time;
        time += rule.delay;
        if (rule.jitter.count() > 0) {
            time += nanoseconds(
                static_cast<int64_t>(NextFraction() * static_cast<double>(rule.jitter.count())));
        }
        if (rule.bytes_per_second > 0 && !rule.has_port()) {
            const double seconds =
                static_cast<double>(bytes) / static_cast<double>(rule.bytes_per_second);
            time += nanoseconds(static_cast<int64_t>(std::min(seconds, kLongestSeconds) * 1e9));
        }
        return time;
    }

    // From 0 to less than 1; the same on every machine.
    double NextFraction() { return static_cast<double>(random() >> 11) * 0x1p-53; }

    const FaultRule rule;
    const uint64_t id;
    std::mt19937_64 random;
    Counts counts;
    bool of_environment = false;
    std::atomic<bool> removed{false};
};

using RulePtr = std::shared_ptr<ActiveRule>;

bool IsGone(const FaultLink *link) {
    return link != nullptr && link->peer_gone != nullptr && link->peer_gone->load();
}

bool AreRemoved(const std::vector<RulePtr> &rules) {
    return std::all_of(rules.begin(), rules.end(),
                       [](const RulePtr &rule) { return rule->removed.load(); });
}

// Each port that a rule names, once.
std::vector<Port> PortsOf(const std::vector<RulePtr> &rules) {
    std::map<std::string, double> rates;
    for (const RulePtr &each : rules) {
        if (!each->rule.has_port()) continue;
        const auto rate = static_cast<double>(each->rule.bytes_per_second);
        const auto [place, added] = rates.emplace("nic " + each->rule.nic, rate);
        if (!added) place->second = std::min(place->second, rate);
    }
    std::vector<Port> ports;
    ports.reserve(rates.size());
    for (const auto &[name, rate] : rates) ports.push_back({name, rate});
    return ports;
}

struct Faults {
    Mutex mutex;
    std::condition_variable changed;  // a rule was taken away, or a peer has gone
    std::vector<RulePtr> rules LLDD_GUARDED_BY(mutex);
    std::array<Counts, kFaultPoints> points LLDD_GUARDED_BY(mutex);
    uint64_t last_id LLDD_GUARDED_BY(mutex) = 0;
    std::string environment LLDD_GUARDED_BY(mutex);
    // With the rules that keep each of them mute.
    std::map<const FaultLink *, std::vector<RulePtr>> links LLDD_GUARDED_BY(mutex);

    std::vector<uint64_t> AddLocked(std::vector<FaultRule> added, bool of_environment)
        LLDD_REQUIRES(mutex) {
        std::vector<uint64_t> ids;
        for (FaultRule &rule : added) {
            rules.push_back(std::make_shared<ActiveRule>(std::move(rule), ++last_id));
            rules.back()->of_environment = of_environment;
            ids.push_back(last_id);
            for (auto &[link, muting] : links) MeetLinkLocked(rules.back(), link, &muting);
        }
        fault_rules_set.store(!rules.empty(), std::memory_order_relaxed);
        return ids;
    }

    template <typename Which>
    void RemoveLocked(const Which &which) LLDD_REQUIRES(mutex) {
        const auto kept = std::stable_partition(rules.begin(), rules.end(), [&](const RulePtr &r) {
            r->removed = which(*r);
            return !r->removed;
        });
        rules.erase(kept, rules.end());
        fault_rules_set.store(!rules.empty(), std::memory_order_relaxed);
        for (auto &[link, muting] : links) {
            const bool was_mute = !muting.empty();
            muting.erase(std::remove_if(muting.begin(), muting.end(),
                                        [](const RulePtr &rule) { return rule->removed.load(); }),
                         muting.end());
            if (was_mute && muting.empty()) link->mute(false);
        }
        changed.notify_all();
        Ports::OfThisProcess().WakeAll();
    }

    void MeetLinkLocked(const RulePtr &rule, const FaultLink *link, std::vector<RulePtr> *muting)
        LLDD_REQUIRES(mutex) {
        if (!rule->rule.is_at(FaultPoint::kLink)) return;
        if (rule->rule.peer.has_value() && link->peer != *rule->rule.peer) return;
        Counts &counts = points[static_cast<size_t>(FaultPoint::kLink)];
        ++counts.calls;
        if (!rule->Fires()) return;
        ++counts.fired;
        muting->push_back(rule);
        if (muting->size() == 1) link->mute(true);
    }

    // A transfer over a link that is mute waits until it is not.
    Status AwaitVoiceLocked(UniqueLock *lock, const Deadline &deadline, const FaultLink *link)
        LLDD_REQUIRES(mutex) {
        const auto rule = [&]() LLDD_REQUIRES(mutex) -> const ActiveRule * {
            const auto found = links.find(link);
            return found == links.end() || found->second.empty() ? nullptr : found->second[0].get();
        };
        WaitUntil(changed, lock->native(), deadline,
                  [&]() LLDD_REQUIRES(mutex) { return rule() == nullptr || IsGone(link); });
        if (rule() == nullptr || IsGone(link)) return Status::Ok();
        return Failure(LLDD_TIMEOUT, "not done in time: the link is mute by the fault rule \"%s\"",
                       rule()->rule.text.c_str());
    }

    // Waits for so long; a peer that goes and rules that are taken away end it. False: longer than
    // the deadline allows.
    bool WaitLocked(UniqueLock *lock, const std::vector<RulePtr> &firing, nanoseconds time,
                    const Deadline &deadline, const FaultLink *link) LLDD_REQUIRES(mutex) {
        if (time.count() == 0) return true;
        const auto end = Deadline::Clock::now() + time;
        WaitUntil(changed, lock->native(), deadline.OrAt(end),
                  [&] { return IsGone(link) || AreRemoved(firing); });
        return end <= deadline.when() && deadline.cause() == InterruptCause::kNone;
    }

    // The rules that fire for a call, up to the first that ends it.
    std::vector<RulePtr> FiringLocked(FaultPoint point, const FaultLink *link)
        LLDD_REQUIRES(mutex) {
        std::vector<RulePtr> firing;
        Counts &counts = points[static_cast<size_t>(point)];
        ++counts.calls;
        for (const RulePtr &each : rules) {
            const FaultRule &rule = each->rule;
            if (!rule.is_at(point)) continue;
            if (rule.peer.has_value() && (link == nullptr || link->peer != *rule.peer)) continue;
            if (!each->Fires()) continue;
            firing.push_back(each);
            if (rule.ends_the_call()) break;
        }
        if (!firing.empty()) ++counts.fired;
        return firing;
    }
};

Faults &Current() { return OfThisProcess<Faults>(); }

Status ReadScript(const std::string &value, std::string *script) {
    if (value.empty() || value[0] != '@') {
        *script = value;
        return Status::Ok();
    }
    const std::string path = value.substr(1);
    const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    char buffer[4096];
    ssize_t size = file ? 1 : -1;
    while (size > 0) {
        size = read(file.get(), buffer, sizeof buffer);
        if (size > 0) script->append(buffer, static_cast<size_t>(size));
        if (script->size() > kLongestScript) {
            return Failure(LLDD_PARAM_INVALID, "the file %s is longer than %zu bytes", path.c_str(),
                           kLongestScript);
        }
    }
    if (size == 0) return Status::Ok();
    return ErrnoFailure(LLDD_PARAM_INVALID, errno, "the file %s cannot be read", path.c_str());
}

}  // namespace

Status MeetFaults(FaultPoint point, const Deadline &deadline, const FaultLink *link, uint64_t bytes,
                  uint64_t *corrupt) {
    Faults &faults = Current();
    const FaultPointInfo &info = InfoOf(point);
    UniqueLock lock(faults.mutex);
    if (info.moves_bytes && link != nullptr) {
        LLDD_RETURN_IF_ERROR(faults.AwaitVoiceLocked(&lock, deadline, link));
    }
    const std::vector<RulePtr> firing = faults.FiringLocked(point, link);
    if (firing.empty()) return Status::Ok();
    nanoseconds time{0};
    for (const RulePtr &each : firing) time += each->HoldUpFor(info, bytes);
    for (const RulePtr &each : firing) {
        if (corrupt != nullptr && each->rule.corrupt != 0) *corrupt = each->rule.corrupt;
    }
    const ActiveRule &last = *firing.back();
    bool in_time = faults.WaitLocked(&lock, firing, time, deadline, link);
    std::vector<Port> ports = PortsOf(firing);
    if (in_time && !ports.empty() && bytes > 0) {
        lock.Unlock();
        Ports::Time passed;
        Ports::Flow flow(std::move(ports), static_cast<double>(bytes), kFastest);
        const auto ended = [&] { return IsGone(link) || AreRemoved(firing); };
        in_time = flow.Await(deadline, ended, &passed);
        lock.Lock();
    }
    if (IsGone(link)) return Status::Ok();
    if (!in_time && !AreRemoved(firing)) {
        return Failure(LLDD_TIMEOUT, "not done in time: held up by the fault rule \"%s\"",
                       last.rule.text.c_str());
    }
    if (last.rule.status != LLDD_SUCCESS) {
        const lldd_status status = last.rule.status;
        return Status(status, "injected by the fault rule \"" + last.rule.text + "\"",
                      StatusName(status) == nullptr ? int64_t{status} : 0);
    }
    if (last.rule.drop && info.can_drop) {
        lock.Unlock();
        link->streams->Break();
        // A call that moves bytes first waits until this end has learnt that the link is broken.
        lock.Lock();
        if (info.moves_bytes) {
            WaitUntil(faults.changed, lock.native(), deadline, [&] { return IsGone(link); });
        }
    }
    return Status::Ok();
}

void BeginFaultLink(const FaultLink *link) {
    Faults &faults = Current();
    MutexLock lock(faults.mutex);
    std::vector<RulePtr> &muting = faults.links[link];
    for (const RulePtr &rule : faults.rules) faults.MeetLinkLocked(rule, link, &muting);
}

void EndFaultLink(const FaultLink *link) {
    Faults &faults = Current();
    MutexLock lock(faults.mutex);
    faults.links.erase(link);
}

void WakeHeldUpCalls() {
    {
        Faults &faults = Current();
        MutexLock lock(faults.mutex);
        faults.changed.notify_all();
    }
    Ports::OfThisProcess().WakeAll();
}

Status AddFaults(const std::string &script, std::vector<uint64_t> *ids) {
    std::vector<FaultRule> added;
    LLDD_RETURN_IF_ERROR(ParseFaultScript(script, &added));
    Faults &faults = Current();
    MutexLock lock(faults.mutex);
    *ids = faults.AddLocked(std::move(added), false);
    return Status::Ok();
}

Status SetFaults(const std::string &script) {
    std::vector<FaultRule> instead;
    LLDD_RETURN_IF_ERROR(ParseFaultScript(script, &instead));
    Faults &faults = Current();
    MutexLock lock(faults.mutex);
    faults.RemoveLocked([](const ActiveRule &) { return true; });
    faults.AddLocked(std::move(instead), false);
    return Status::Ok();
}

void RemoveFaults(const std::vector<uint64_t> &ids) {
    Faults &faults = Current();
    MutexLock lock(faults.mutex);
    faults.RemoveLocked([&](const ActiveRule &rule) {
        return std::find(ids.begin(), ids.end(), rule.id) != ids.end();
    });
}

void ClearFaults() {
    Faults &faults = Current();
    MutexLock lock(faults.mutex);
    faults.RemoveLocked([](const ActiveRule &) { return true; });
}

Status UseFaultsOfEnvironment(const std::string &value) {
    Faults &faults = Current();
    {
        MutexLock lock(faults.mutex);
        if (faults.environment == value) return Status::Ok();
    }
    std::string script;
    std::vector<FaultRule> instead;
    LLDD_RETURN_IF_ERROR(ReadScript(value, &script));
    LLDD_RETURN_IF_ERROR(ParseFaultScript(script, &instead));
    MutexLock lock(faults.mutex);
    if (faults.environment == value) return Status::Ok();
    faults.environment = value;
    faults.RemoveLocked([](const ActiveRule &rule) { return rule.of_environment; });
    faults.AddLocked(std::move(instead), true);
    return Status::Ok();
}

std::string DescribeFaults() {
    Faults &faults = Current();
    MutexLock lock(faults.mutex);
    std::string text;
    for (size_t i = 0; i < kFaultPoints; ++i) {
        text += Format("point %s %llu %llu\n", InfoOf(static_cast<FaultPoint>(i)).name,
                       Printable(faults.points[i].calls), Printable(faults.points[i].fired));
    }
    for (const RulePtr &each : faults.rules) {
        text +=
            Format("rule %llu %llu %llu %s\n", Printable(each->id), Printable(each->counts.calls),
                   Printable(each->counts.fired), each->rule.text.c_str());
    }
    return text;
}

}  // namespace lldd::mock
