// distributed/mpi/transport.cpp -- the transport of MPI, a module of its own: libmpi is loaded by
// runs that a launcher started, and by no others.
#include "distributed/transport.h"

#include <mpi.h>

#include <climits>
#include <cstdlib>
#include <string>

namespace qt {
namespace {

void check(int result, const char* call) {
  if (result == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(result, text, &length);
  throw PeerError(std::string(call) + " failed: " + text);
}

class MpiTransport : public Transport {
 public:
  MpiTransport() {
    // Open MPI's printer of stack traces may not return where the heap is damaged, and the others
    // would wait until their timeout.
    setenv("OMPI_MCA_opal_stacktrace_output", "none", 0);
    int level = 0;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level), "MPI_Init_thread");
    if (level < MPI_THREAD_FUNNELED)
      throw ConfigError("this MPI library cannot be used beside other threads");
    check(MPI_Comm_dup(MPI_COMM_WORLD, &world_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(world_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    MPI_Comm_rank(world_, &rank_);
    MPI_Comm_size(world_, &size_);
  }

  int rank() const override { return rank_; }
  int world() const override { return size_; }

  TransferPointer send(int to, int tag, const void* bytes, size_t count) override {
    auto transfer = std::make_unique<Request>();
    check(MPI_Isend(bytes, length(count), MPI_BYTE, to, tag, world_, &transfer->request),
          "MPI_Isend");
    return transfer;
  }

  TransferPointer receive(int from, int tag, void* bytes, size_t count) override {
    auto transfer = std::make_unique<Request>();
    check(MPI_Irecv(bytes, length(count), MPI_BYTE, from, tag, world_, &transfer->request),
          "MPI_Irecv");
    return transfer;
  }

  bool done(Transfer& transfer) override {
    int flag = 0;
    check(MPI_Test(&static_cast<Request&>(transfer).request, &flag, MPI_STATUS_IGNORE), "MPI_Test");
    return flag != 0;
  }

  void close() override {
    MPI_Comm_free(&world_);
    MPI_Finalize();
  }

 private:
  struct Request : Transfer {
    MPI_Request request = MPI_REQUEST_NULL;
  };
  static int length(size_t count) {
    if (count > size_t(INT_MAX)) throw InternalError("a message of more than 2 GiB");
    return int(count);
  }

  MPI_Comm world_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
};

}  // namespace
}  // namespace qt

extern "C" qt::Transport* qattrain_open_transport() {
  return std::make_unique<qt::MpiTransport>().release();
}
