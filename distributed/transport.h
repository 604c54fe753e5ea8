// distributed/transport.h -- messages between ranks: the little that a communicator asks of MPI.
#pragma once
#include <cstddef>
#include <memory>

#include "core/base/error.h"

namespace qt {

// Requires: all calls from the thread that opened it; bytes stay where they are until done().
// Ensures: messages from one rank under one tag arrive in the order in which they were sent.
class Transport {
 public:
  struct Transfer {
    virtual ~Transfer() = default;
  };
  using TransferPointer = std::unique_ptr<Transfer>;

  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int world() const = 0;
  // tag: 0 .. 32766. A message has the length that its receiver expects.
  virtual TransferPointer send(int to, int tag, const void* bytes, size_t count) = 0;
  virtual TransferPointer receive(int from, int tag, void* bytes, size_t count) = 0;
  // Never blocks. PeerError where the system knows that the transfer cannot succeed.
  virtual bool done(Transfer& transfer) = 0;
  // Waits for all ranks to do the same.
  virtual void close() = 0;
};

}  // namespace qt
