// SPDX-License-Identifier: Apache-2.0
#include "engine/groups.h"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <utility>

#include "base/io_thread.h"
#include "base/log.h"
#include "base/thread.h"

namespace lldd {
namespace {

// The address of this host that members are dialled from.
constexpr char kHostIp[] = "LLM_DATADIST_HOST_IP";
constexpr size_t kMaxGroups = 512;
constexpr size_t kMaxName = 127;
constexpr size_t kMaxMembers = 4;
constexpr uint32_t kDefaultTotalS = 120;
// The other member is known to be there, so a dial need not last longer.
constexpr uint64_t kDialMs = 5000;

// So that the order in which a client lists them makes no difference.
std::vector<GroupSpec::Member> MembersByRank(const GroupSpec &spec) {
    std::vector<GroupSpec::Member> members = spec.members;
    std::sort(members.begin(), members.end(), [](const auto &a, const auto &b) {
        return a.rank != b.rank ? a.rank < b.rank : a.cluster_id < b.cluster_id;
    });
    return members;
}

uint64_t LowestRank(const GroupSpec &spec) { return MembersByRank(spec).front().cluster_id; }

std::string Describe(const GroupSpec &spec) {
    std::string text = Format("\"%s\":", spec.name.c_str());
    for (const auto &member : MembersByRank(spec)) {
        text += Format(" cluster %llu has rank %u;", Printable(member.cluster_id), member.rank);
    }
    return text;
}

}  // namespace

Groups::~Groups() { Close(Deadline::InMs(options_.sync_timeout_ms)); }

Status Groups::Check(const GroupSpec &spec) const {
    if (spec.name.empty() || spec.name.size() > kMaxName) {
        return Failure(LLDD_PARAM_INVALID, "the name has %zu bytes, allowed is 1..%zu",
                       spec.name.size(), kMaxName);
    }
    if (spec.members.size() < 2 || spec.members.size() > kMaxMembers) {
        return Failure(LLDD_PARAM_INVALID, "%zu members are given, allowed is 2..%zu",
                       spec.members.size(), kMaxMembers);
    }
    std::set<uint64_t> ids;
    for (size_t i = 0; i < spec.members.size(); ++i) {
        if (!ids.insert(spec.members[i].cluster_id).second) {
            return Failure(LLDD_PARAM_INVALID, "cluster %llu is a member twice",
                           Printable(spec.members[i].cluster_id));
        }
        if (i > 0 && spec.members[i].rank < spec.members[i - 1].rank) {
            return Failure(LLDD_PARAM_INVALID, "the ranks are not ascending: %u follows %u",
                           spec.members[i].rank, spec.members[i - 1].rank);
        }
    }
    if (ids.count(options_.cluster_id) == 0) {
        return Failure(LLDD_PARAM_INVALID, "the own cluster %llu is no member",
                       Printable(options_.cluster_id));
    }
    MutexLock lock(mutex_);
    if (groups_.size() >= kMaxGroups) {
        return Failure(LLDD_PARAM_INVALID, "%zu communicators exist, allowed is %zu",
                       groups_.size(), kMaxGroups);
    }
    return Status::Ok();
}

uint64_t Groups::TotalS() const {
    return options_.total_time_s == 0 ? kDefaultTotalS : options_.total_time_s;
}

Status Groups::Join(const GroupSpec &spec, uint64_t *comm_id) {
    MutexLock one_at_a_time(join_mutex_);
    LLDD_RETURN_IF_ERROR(Check(spec));
    LLDD_RETURN_IF_ERROR(UseOwnAddress());
    const auto group = std::make_shared<Group>();
    group->spec = spec;
    group->description = Describe(spec);
    group->rank_table = RankTable(spec.rank_table);
    {
        // The next join gets the id of one that failed: joins are made one at a time.
        MutexLock lock(mutex_);
        group->comm_id = last_id_ + 1;
    }
    Status status;
    loop_->RunAndWait([&] {
        LLDD_ON_IO_THREAD(*loop_);
        status = Attend(group);
        if (!status.ok()) return;
        {
            // Only now: a member that asks for a link is served by this thread, and must not find a
            // communicator that is not attended.
            MutexLock lock(mutex_);
            last_id_ = group->comm_id;
            groups_.emplace(group->comm_id, group);
        }
        group->timer = loop_->PostAt(Deadline::InMs(TotalS() * 1000),
                                     [this, weak = std::weak_ptr<Group>(group)] {
                                         const GroupPtr late = weak.lock();
                                         if (late != nullptr) Fail(late, NotAllCame(*late));
                                     });
    });
    if (!status.ok()) {
        // This end may have dialled a member already.
        const Status ended = EndLinks(group, Deadline::InMs(options_.sync_timeout_ms));
        if (!ended.ok()) LLDD_LOG(LLDD_LOG_WARNING, "join that failed: %s", ended.text().c_str());
        return status;
    }
    *comm_id = group->comm_id;
    LLDD_LOG(LLDD_LOG_INFO, "communicator %llu prepared: %s", Printable(group->comm_id),
             group->description.c_str());
    return Status::Ok();
}

Status Groups::OwnAddress(SocketAddress *from) {
    const char *const text = std::getenv(kHostIp);
    if (text == nullptr || text[0] == '\0') return Status::Ok();
    Status status = SocketAddress::Parse(text, 0, from);
    // Whoever dials later, in the background, could tell nobody.
    if (status.ok()) status = CheckOfThisHost(*from);
    if (status.ok()) return status;
    return std::move(status).WithPrefix(std::string(kHostIp) + ": ");
}

// The way to the rendezvous is the way to the others, as far as this process can tell.
Status Groups::UseOwnAddress() {
    SocketAddress from;
    LLDD_RETURN_IF_ERROR(OwnAddress(&from));
    bool several_hosts = false;
    SocketAddress rendezvous;
    LLDD_RETURN_IF_ERROR(Rendezvous::FromEnvironment(&several_hosts, &rendezvous));
    if (!several_hosts) return initiator_->UseAddress("127.0.0.1");
    SocketAddress own;
    LLDD_RETURN_IF_ERROR(AddressTowards(rendezvous, from, &own));
    return initiator_->UseAddress(own.ip());
}

// Begins to meet the other members.
std::string Groups::MissingLocked(const Group &group) const {
    std::string missing;
    for (const auto &member : group.spec.members) {
        if (member.cluster_id == options_.cluster_id || group.links.count(member.cluster_id) != 0)
            continue;
        missing += Format("%s%llu", missing.empty() ? "" : ", ", Printable(member.cluster_id));
    }
    return missing;
}

std::string Groups::NotAllCame(const Group &group) const {
    MutexLock lock(mutex_);
    return Format("not all members came in time (link_total_time: %llu s); missing: cluster %s",
                  Printable(TotalS()), MissingLocked(group).c_str());
}

Status Groups::Attend(const GroupPtr &group) {
    bool several_hosts = false;
    SocketAddress address;
    LLDD_RETURN_IF_ERROR(Rendezvous::FromEnvironment(&several_hosts, &address));
    SocketAddress accepting;
    LLDD_RETURN_IF_ERROR(acceptor_->StartAcceptingForGroups(several_hosts, address, &accepting));
    MeetingCard card;
    card.cluster_id = options_.cluster_id;
    card.name = group->spec.name;
    card.group = group->description;
    card.rank_table = group->spec.rank_table;
    card.ip = accepting.ip();
    card.port = accepting.port();
    if (card.Encode().size() > kMaxMeetingCard)
        return Failure(LLDD_PARAM_INVALID, "rank_table is larger than 64 KiB");
    const auto on_card = [this, weak = std::weak_ptr<Group>(group)](const MeetingCard &other) {
        const GroupPtr alive = weak.lock();
        LLDD_ON_IO_THREAD(*loop_);
        if (alive != nullptr) OnCard(alive, other);
    };
    std::vector<uint64_t> others;
    for (const auto &member : group->spec.members) {
        if (member.cluster_id != options_.cluster_id) others.push_back(member.cluster_id);
    }
    if (several_hosts) {
        if (rendezvous_ == nullptr) {
            SocketAddress from;
            LLDD_RETURN_IF_ERROR(OwnAddress(&from));
            rendezvous_ = std::make_unique<Rendezvous>(loop_, address, from, options_.secret,
                                                       options_.peer_timeout_ms);
        }
        const bool holds = LowestRank(group->spec) == options_.cluster_id;
        return rendezvous_->Attend(holds, card, std::move(others), on_card, &group->meeting);
    }
    auto meeting = std::make_unique<LocalMeeting>(loop_, card, std::move(others), on_card);
    std::string notice;
    LLDD_RETURN_IF_ERROR(meeting->Start(&notice));
    if (!notice.empty()) notices_->Add(std::move(notice));
    group->meeting = std::move(meeting);
    return Status::Ok();
}

Status Groups::Leave(uint64_t comm_id, const Deadline &deadline) {
    GroupPtr group;
    {
        MutexLock lock(mutex_);
        const auto found = groups_.find(comm_id);
        if (found == groups_.end()) {
            return Failure(LLDD_NOT_YET_LINK, "there is no communicator %llu", Printable(comm_id));
        }
        group = found->second;
        groups_.erase(found);
    }
    loop_->RunAndWait([&] {
        LLDD_ON_IO_THREAD(*loop_);
        EndMeeting(group);
    });
    return EndLinks(group, deadline);
}

Status Groups::EndLinks(const GroupPtr &group, const Deadline &deadline) {
    std::map<uint64_t, std::shared_ptr<Link>> links;
    {
        // A link that is being made finds the group left, and is taken down by the thread that
        // makes it.
        MutexLock lock(mutex_);
        group->state = LLDD_GROUP_FAILED;
        links.swap(group->links);
    }
    Status status;
    for (const auto &entry : links) {
        const Status ended =
            WithCause(initiator_->EndGroupLink(entry.second, deadline), deadline.cause());
        if (!ended.ok()) status = Failure(LLDD_UNLINK_FAILED, "%s", ended.text().c_str());
    }
    return status;
}

Status Groups::State(uint64_t comm_id, uint32_t *state) const {
    MutexLock lock(mutex_);
    const auto found = groups_.find(comm_id);
    if (found == groups_.end()) {
        return Failure(LLDD_NOT_YET_LINK, "there is no communicator %llu", Printable(comm_id));
    }
    *state = found->second->state;
    return Status::Ok();
}

void Groups::Close(const Deadline &deadline) {
    {
        MutexLock lock(tasks_mutex_);
        stopping_ = true;
        tasks_changed_.notify_all();
    }
    std::vector<uint64_t> ids;
    {
        MutexLock lock(mutex_);
        for (const auto &entry : groups_) ids.push_back(entry.first);
    }
    for (const uint64_t id : ids) {
        const Status status = Leave(id, deadline);
        if (!status.ok())
            LLDD_LOG(LLDD_LOG_WARNING, "communicator left: %s", status.text().c_str());
    }
    if (worker_.joinable()) worker_.join();
    // What was posted still refers to this object.
    loop_->RunAndWait([this] {
        LLDD_ON_IO_THREAD(*loop_);
        rendezvous_.reset();
    });
}

// ---- preparation ----

Groups::GroupPtr Groups::FindPreparingLocked(const std::string &name) const {
    for (const auto &entry : groups_) {
        if (entry.second->spec.name == name && entry.second->state == LLDD_GROUP_PREPARING)
            return entry.second;
    }
    return nullptr;
}

void Groups::OnCard(const GroupPtr &group, const MeetingCard &card) {
    if (card.version != wire::kVersion) {
        const std::string who = Format("cluster %llu", Printable(card.cluster_id));
        Fail(group, wire::OtherVersion(who.c_str(), card.version).text());
        return;
    }
    const auto &members = group->spec.members;
    const bool is_member = std::any_of(members.begin(), members.end(), [&](const auto &member) {
        return member.cluster_id == card.cluster_id;
    });
    if (card.group != group->description || !is_member) {
        Fail(group,
             Format("cluster %llu describes it differently: here %s there %s",
                    Printable(card.cluster_id), group->description.c_str(), card.group.c_str()));
        return;
    }
    const RankTable table(card.rank_table);
    if (!group->rank_table.SaysTheSame(table)) {
        Fail(group, Format("cluster %llu has another rank table: %s", Printable(card.cluster_id),
                           group->rank_table.DifferenceTo(table).c_str()));
        return;
    }
    if (options_.cluster_id > card.cluster_id) return;
    SocketAddress address;
    const Status status = SocketAddress::Parse(card.ip, card.port, &address);
    if (!status.ok()) {
        Fail(group, Format("cluster %llu: %s", Printable(card.cluster_id), status.text().c_str()));
        return;
    }
    Dial(group, card.cluster_id, address);
}

void Groups::Dial(const GroupPtr &group, uint64_t peer, const SocketAddress &address) {
    {
        // Both may have called on each other: one link will do.
        MutexLock lock(mutex_);
        if (!group->dialled.insert(peer).second) return;
    }
    Post([this, group, peer, address] {
        std::shared_ptr<Link> link;
        Interruption call(options_.closing);
        const Deadline deadline = Deadline::InMs(kDialMs).InterruptedBy(&call);
        SocketAddress from;
        Status status = OwnAddress(&from);
        if (status.ok()) {
            status = initiator_->LinkForGroup(address, from, peer, group->spec.name, group->comm_id,
                                              deadline, &link);
        }
        if (status.ok() && AddLink(group, link)) return;
        if (!status.ok()) {
            Fail(group, status.text());
            return;
        }
        status = initiator_->EndGroupLink(link, Deadline::Passed());
        if (!status.ok())
            LLDD_LOG(LLDD_LOG_WARNING, "link of a left communicator: %s", status.text().c_str());
    });
}

bool Groups::Expects(const std::string &name, uint64_t cluster_id) {
    LLDD_ON_IO_THREAD(*loop_);
    MutexLock lock(mutex_);
    const GroupPtr group = FindPreparingLocked(name);
    if (group == nullptr || group->links.count(cluster_id) != 0) return false;
    return std::any_of(group->spec.members.begin(), group->spec.members.end(),
                       [&](const auto &member) { return member.cluster_id == cluster_id; });
}

bool Groups::OnAccepted(const std::shared_ptr<Link> &link) {
    LLDD_ON_IO_THREAD(*loop_);
    GroupPtr group;
    {
        MutexLock lock(mutex_);
        group = FindPreparingLocked(link->identity().group);
    }
    if (group == nullptr) return false;
    link->SetCommId(group->comm_id);
    return AddLink(group, link);
}

// False if the group does not want it any more.
bool Groups::AddLink(const GroupPtr &group, const std::shared_ptr<Link> &link) {
    std::vector<std::shared_ptr<Link>> complete;
    {
        MutexLock lock(mutex_);
        if (group->state != LLDD_GROUP_PREPARING ||
            !group->links.emplace(link->peer(), link).second)
            return false;
        if (group->links.size() + 1 < group->spec.members.size()) {
            LLDD_LOG(
                LLDD_LOG_INFO, "communicator %llu: cluster %llu is linked; missing: cluster %s",
                Printable(group->comm_id), Printable(link->peer()), MissingLocked(*group).c_str());
            return true;
        }
        for (const auto &entry : group->links) complete.push_back(entry.second);
        directory_->Publish(complete);
        group->state = LLDD_GROUP_OK;
    }
    LLDD_LOG(LLDD_LOG_INFO, "communicator %llu OK: all its members are linked",
             Printable(group->comm_id));
    loop_->Post([this, group] {
        LLDD_ON_IO_THREAD(*loop_);
        EndMeeting(group);
    });
    return true;
}

void Groups::Fail(const GroupPtr &group, const std::string &why) {
    {
        MutexLock lock(mutex_);
        if (group->state != LLDD_GROUP_PREPARING) return;
        // Before the state: a thread that sees that it failed finds the reason.
        notices_->Add(Format("communicator %llu (\"%s\") failed: %s", Printable(group->comm_id),
                             group->spec.name.c_str(), why.c_str()));
        group->state = LLDD_GROUP_FAILED;
    }
    // Posted and not done here: this may be the meeting's own handler.
    loop_->Post([this, group] {
        LLDD_ON_IO_THREAD(*loop_);
        EndMeeting(group);
    });
}

void Groups::EndMeeting(const GroupPtr &group) {
    if (group->timer != 0) loop_->Cancel(group->timer);
    group->timer = 0;
    group->meeting.reset();
}

void Groups::Post(std::function<void()> task) {
    MutexLock lock(tasks_mutex_);
    if (stopping_) return;
    tasks_.push_back(std::move(task));
    if (!worker_.joinable()) {
        worker_ = StartThread("lldd-groups", [this] { Work(); });
    }
    tasks_changed_.notify_all();
}

void Groups::Work() {
    UniqueLock lock(tasks_mutex_);
    for (;;) {
        tasks_changed_.wait(lock.native(), [this]() LLDD_REQUIRES(tasks_mutex_) {
            return stopping_ || !tasks_.empty();
        });
        if (stopping_) return;
        const std::function<void()> task = std::move(tasks_.front());
        tasks_.pop_front();
        lock.Unlock();
        try {
            task();
        } catch (const std::exception &error) {
            Log(LLDD_LOG_ERROR, "linking a communicator: %s", error.what());
        }
        lock.Lock();
    }
}

}  // namespace lldd
