// The engine of CANN's HIXL, as far as csrc/ascend uses it, as this project declares it for its
// tests. Made from the documented interface; no file of CANN's is here.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "hixl/hixl_types.h"

namespace hixl {

class Hixl {
public:
    Hixl();
    ~Hixl();
    Hixl(const Hixl &) = delete;
    Hixl &operator=(const Hixl &) = delete;

    Status Initialize(const AscendString &local_engine,
                      const std::map<AscendString, AscendString> &options);
    void Finalize();

    Status RegisterMem(const MemDesc &mem, MemType type, MemHandle &mem_handle);
    Status DeregisterMem(MemHandle mem_handle);

    Status Connect(const AscendString &remote_engine, int32_t timeout_in_millis = 1000);
    Status Disconnect(const AscendString &remote_engine, int32_t timeout_in_millis = 1000);

    Status TransferSync(const AscendString &remote_engine, TransferOp operation,
                        const std::vector<TransferOpDesc> &op_descs,
                        int32_t timeout_in_millis = 1000);

private:
    class Engine;
    std::unique_ptr<Engine> engine_;
    bool failed_ = false;
};

}  // namespace hixl
