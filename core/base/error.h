// core/base/error.h -- the errors qattrain throws, each with the exit code that main returns for
// it.
#pragma once
#include <stdexcept>
#include <string>

namespace qt {

// The process exit codes of README.md. 1 is what an unexpected exception (a bug) gives.
enum class ExitCode : int {
  done = 0,
  internal = 1,
  usage = 2,       // command line or config
  data = 3,        // missing, unreadable or unusable data set
  checkpoint = 4,  // unreadable, truncated or unwritable checkpoint or model file
  diverged = 5,    // NaN or infinity in loss, constants or steps
  out_of_memory = 6,
  peer_lost = 7,  // another rank died or hangs
  stopped = 75,   // stopped on request after a good checkpoint
};

// A message names the thing, what came, and what is allowed. Only main turns one into an exit code.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

template <ExitCode code_value>
struct ErrorOf : Error {
  explicit ErrorOf(const std::string& message) : Error(code_value, message) {}
};

using InternalError = ErrorOf<ExitCode::internal>;
using ConfigError = ErrorOf<ExitCode::usage>;
using DataError = ErrorOf<ExitCode::data>;
using CheckpointError = ErrorOf<ExitCode::checkpoint>;
using DivergenceError = ErrorOf<ExitCode::diverged>;
using OutOfMemory = ErrorOf<ExitCode::out_of_memory>;
using PeerError = ErrorOf<ExitCode::peer_lost>;

}  // namespace qt

// Throws InternalError(message) unless condition holds; message is built only then.
#define QT_CHECK(condition, message)                                   \
  do {                                                                 \
    if (!(condition)) throw ::qt::InternalError(std::string(message)); \
  } while (0)
