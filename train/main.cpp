// train/main.cpp -- the program: the only place where an error becomes an exit code.
#include <fcntl.h>
#include <unistd.h>

#include <new>
#include <system_error>

#include "core/base/log.h"
#include "train/cli.h"

namespace {

// One line for people, the exit code for scripts, STATUS.json for whoever looks at the run folder.
int failed(const qt::CurrentRun& run, qt::ExitCode code, const std::string& message) {
  const auto ending = run.ranks->end_with(code, message);
  code = ending.code;
  if (ending.speaks) qt::log::error(message);  // else another rank says the same
  qt::log::flush();
  try {
    if (run.folder && !run.at_rest)
      run.folder->write_status({.state = qt::RunState::failed,
                                .step = run.step,
                                .exit_code = int(code),
                                .message = message});
  } catch (const std::exception&) {
    // A full disk has been named already.
  }
  // The MPI library's own end would wait for ranks that are not there any more.
  if (!run.ranks->alone()) _exit(int(code));
  return int(code);
}

// Where a shell has closed standard output (>&-), the next file opened would get its number, and
// what is printed would end in a checkpoint.
void open_standard_streams() {
  int descriptor = 0;
  do descriptor = open("/dev/null", O_RDWR);
  while (descriptor >= 0 && descriptor <= STDERR_FILENO);
  if (descriptor > STDERR_FILENO) close(descriptor);
}

}  // namespace

int main(int argc, char** argv) {
  open_standard_streams();
  qt::CurrentRun run;
  try {
    qt::join_ranks({argv, argv + argc}, run);
    const qt::CommandLine command = qt::parse_command_line({argv, argv + argc});
    const int code = int(qt::run_command(command, run));
    run.ranks->close();
    qt::log::flush();
    return code;
  } catch (const qt::InternalError& e) {
    return failed(run, qt::ExitCode::internal, std::string("internal error: ") + e.what());
  } catch (const qt::Error& e) {
    return failed(run, e.code(), e.what());
  } catch (const std::bad_alloc&) {
    return failed(run, qt::ExitCode::out_of_memory, "out of memory");
  } catch (const std::system_error& e) {
    if (e.code() != std::errc::resource_unavailable_try_again)
      return failed(run, qt::ExitCode::internal, std::string("internal error: ") + e.what());
    return failed(run, qt::ExitCode::out_of_memory,
                  std::string("no more threads can be started (") + e.what() +
                      "): the system or a container limits them; data.workers and train.threads "
                      "say how many are wanted");
  } catch (const std::exception& e) {
    return failed(run, qt::ExitCode::internal, std::string("internal error: ") + e.what());
  }
}
