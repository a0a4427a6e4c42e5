// The side of the fake HIXL that is connected to: its threads stand for the hardware.
//
// A client that goes without a word is believed to be there until its heartbeat has been missing for
// long; the memory that its connection knew is bound until then.
//
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/socket.h>

#include "engine.h"
#include "errors.h"
#include "traits.h"

namespace hixl {

using fake_cann::Bounce;
using fake_cann::Clock;
using fake_cann::kForEver;
using fake_cann::Receive;
using fake_cann::Send;
using fake_cann::Sent;
using fake_cann::Socket;

void Hixl::Engine::Accept() {
    for (;;) {
        // Waits in accept: shutting the listener down ends it.
        fcntl(listener_.get(), F_SETFL, fcntl(listener_.get(), F_GETFL) & ~O_NONBLOCK);
        Socket socket(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        if (!socket.open()) return;
        socket.SetNoDelay();
        Reap();
        std::lock_guard<std::mutex> lock(mutex_);
        served_.emplace_back();
        Served *served = &served_.back();
        served->socket = std::move(socket);
        // It binds nothing before it is opened.
        served->bound_until = Clock::time_point::min();
        served->thread = std::thread([this, served] { Serve(served); });
    }
}

// What binds memory still stays.
void Hixl::Engine::Reap() {
    std::list<Served> over;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        const auto now = Clock::now();
        for (auto next = served_.begin(); next != served_.end();) {
            const auto each = next++;
            if (each->over && now >= each->bound_until) over.splice(over.end(), served_, each);
        }
    }
    for (Served &served : over) served.thread.join();
}

// Reads and answers what the connection begins with. Not SUCCESS: there is nothing more to serve.
Status Hixl::Engine::Open(Served *served) {
    Greeting greeting;
    if (Receive(served->socket, &greeting, sizeof greeting, kForEver) != Sent::kDone ||
        greeting.magic != Greeting::kMagic || greeting.name_size > 256)
        return FAILED;
    std::string client(greeting.name_size, '\0');
    if (Receive(served->socket, client.data(), client.size(), kForEver) != Sent::kDone)
        return FAILED;
    Status answer = SUCCESS;
    if (greeting.purpose == Greeting::kEnd) {
        EndOf(client, greeting.id);
    } else if (greeting.device == device_) {
        answer = PARAM_INVALID;
    } else {
        KnowSegments(client);
        std::lock_guard<std::mutex> lock(mutex_);
        served->client = client;
        served->id = greeting.id;
        served->known = registry_.Known(this);
        served->bound_until = kForEver;
    }
    const bool answered = Send(served->socket, &answer, sizeof answer, kForEver) == Sent::kDone;
    return answered && answer == SUCCESS && greeting.purpose == Greeting::kOpen ? SUCCESS : FAILED;
}

// The client has disconnected: nothing is bound by it, whatever became of its stream.
void Hixl::Engine::EndOf(const std::string &client, uint64_t id) {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        for (Served &served : served_) {
            if (served.client != client || served.id != id) continue;
            served.bound_until = Clock::time_point::min();
            served.socket.Interrupt();
        }
    }
    ForgetSegments(client);
}

void Hixl::Engine::Serve(Served *served) {
    Bounce bounce;
    bool goes_on = Open(served) == SUCCESS;
    Request request{};
    while (goes_on && Receive(served->socket, &request, sizeof request, kForEver) == Sent::kDone)
        goes_on = ServeRequest(served, request, &bounce);
    std::lock_guard<std::mutex> lock(mutex_);
    served->over = true;
    if (served->bound_until == kForEver)
        served->bound_until = fake_cann::AfterWait(fake_cann::kHeartbeatMs);
    served->socket.Close();
}

bool Hixl::Engine::ServeRequest(Served *served, const Request &request, Bounce *bounce) {
    std::vector<Piece> pieces(request.count);
    if (Receive(served->socket, pieces.data(), pieces.size() * sizeof(Piece), kForEver) !=
        Sent::kDone)
        return false;
    Status status = SUCCESS;
    for (const Piece &piece : pieces) {
        MemType type = MEM_HOST;
        if (!registry_.Find(piece.addr, piece.len, served->known, &type)) status = PARAM_INVALID;
    }
    if (Send(served->socket, &status, sizeof status, kForEver) != Sent::kDone) return false;
    if (status != SUCCESS) return true;
    std::vector<char> bytes(Bounce::kSize);
    for (const Piece &piece : pieces) {
        for (size_t done = 0; done < piece.len;) {
            const size_t step = Step(piece.len - done);
            void *here = reinterpret_cast<void *>(piece.addr + done);
            if (request.operation == READ) {
                if (!bounce->Copy(bytes.data(), here, step)) status = FAILED;
                if (Send(served->socket, &status, sizeof status, kForEver) != Sent::kDone ||
                    status != SUCCESS)
                    return false;
                if (Send(served->socket, bytes.data(), step, kForEver) != Sent::kDone) return false;
            } else {
                if (Receive(served->socket, bytes.data(), step, kForEver) != Sent::kDone)
                    return false;
                if (!bounce->Copy(here, bytes.data(), step)) status = FAILED;
            }
            done += step;
        }
    }
    if (request.operation == READ) return true;
    return Send(served->socket, &status, sizeof status, kForEver) == Sent::kDone &&
           status == SUCCESS;
}

}  // namespace hixl
