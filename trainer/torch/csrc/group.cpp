// A group of processes over c10d: a TCPStore to meet at, Gloo over TCP to compute. As in shim.cpp, every function returns 0,
// or -1 with the message in `plumbline_error()`.
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "guarded.h"

namespace {

struct Group {
  // Outlives the backend, which meets its peers through it.
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
};

}  // namespace

extern "C" {

// `listener`: the socket that the store of rank 0 takes over, -1 on other ranks. `own`: the address of this machine by which
// the others reach it. `run`: what those of other runs do not bring.
int plumbline_group_join(const char* host, int port, int listener, const char* own, const char* run, int rank, int size,
                         int meet_seconds, int work_seconds, Group** out) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = static_cast<uint16_t>(port);
    options.isServer = rank == 0;
    options.waitWorkers = false;
    options.timeout = std::chrono::seconds(meet_seconds);
    if (rank == 0) options.masterListenFd = listener;
    auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
    // Who came to another run is not counted there yet: that run goes on without noticing.
    const std::vector<uint8_t> ours(run, run + std::strlen(run));
    if (rank == 0) {
      store->set("run", ours);
    } else if (store->get("run") != ours) {
      throw std::runtime_error("rank 0 of another run answers at this address");
    }
    // Gloo's own meeting knows only the limit of the work, and the last one may be later than that.
    if (store->add("here", 1) == size) store->set("all are here", ours);
    store->wait({"all are here"});
    auto settings = c10d::ProcessGroupGloo::Options::create(std::chrono::seconds(work_seconds));
    settings->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(own));
    auto prefixed = c10::make_intrusive<c10d::PrefixStore>("plumbline", store);
    auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(prefixed, rank, size, settings);
    *out = new Group{store, gloo};
  });
}

void plumbline_group_leave(Group* group) {
  guarded([&] { delete group; });
}

int plumbline_group_all_reduce(Group* group, at::Tensor* tensor) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{*tensor};
    group->gloo->allreduce(tensors)->wait();
  });
}

int plumbline_group_broadcast(Group* group, at::Tensor* tensor, int from) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = from;
    group->gloo->broadcast(tensors, options)->wait();
  });
}

// `outputs`: one tensor a rank, of the shape of `input`.
int plumbline_group_all_gather(Group* group, at::Tensor* const* outputs, int count, at::Tensor* input) {
  return guarded([&] {
    std::vector<std::vector<at::Tensor>> gathered(1);
    for (int i = 0; i < count; i++) gathered[0].push_back(*outputs[i]);
    std::vector<at::Tensor> inputs{*input};
    group->gloo->allgather(gathered, inputs)->wait();
  });
}

int plumbline_group_barrier(Group* group) {
  return guarded([&] { group->gloo->barrier()->wait(); });
}

}  // extern "C"
