// core/base/files.cpp -- POSIX calls behind files.h: each checked, each open to fault injection.
#include "core/base/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/base/error.h"

namespace qt::files {
namespace {

FaultHook& fault_hook() {
  static FaultHook hook;
  return hook;
}

Fault fault(Operation operation, const std::string& path) {
  return fault_hook() ? fault_hook()(operation, path) : Fault{};
}

[[noreturn]] void fail(const std::string& what, const std::string& path, int error) {
  throw CheckpointError(what + " " + path + ": " + std::strerror(error));
}

// Runs the call unless the hook wants it to fail; throws with the system's reason.
template <class Call>
void checked(Operation operation, const char* what, const std::string& path, Call call) {
  if (const int error = fault(operation, path).error) fail(what, path, error);
  int result;
  do {
    result = call();
  } while (result < 0 && errno == EINTR);
  if (result < 0) fail(what, path, errno);
}

int open_file(const std::string& path, int flags) {
  int descriptor = -1;
  const char* what = (flags & O_ACCMODE) == O_RDONLY ? "cannot open" : "cannot write";
  checked(Operation::open, what, path,
          [&] { return descriptor = open(path.c_str(), flags | O_CLOEXEC, 0666); });
  return descriptor;
}

// False, with the reason in errno, where the system did not take all of it.
bool write_fully(int descriptor, const char* bytes, size_t count) {
  while (count > 0) {
    const ssize_t n = ::write(descriptor, bytes, count);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    bytes += n;
    count -= size_t(n);
  }
  return true;
}

bool write_bytes(int descriptor, const std::string& path, const char* bytes, size_t count) {
  const Fault injected = fault(Operation::write, path);
  if (injected.bytes == UINT64_MAX && !injected.error) return write_fully(descriptor, bytes, count);
  const size_t first = size_t(std::min<uint64_t>(count, injected.bytes));
  if (!write_fully(descriptor, bytes, first)) return false;
  if (!injected.error) return write_fully(descriptor, bytes + first, count - first);
  errno = injected.error;
  return false;
}

void sync_descriptor(int descriptor, const std::string& path) {
  checked(Operation::sync, "cannot sync", path, [&] { return fsync(descriptor); });
}

std::string hex(XXH128_hash_t hash) {
  std::array<char, 33> text{};
  std::snprintf(text.data(), text.size(), "%016llx%016llx",
                static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return text.data();
}

std::shared_ptr<void> new_hash() {
  std::shared_ptr<void> state(XXH3_createState(),
                              [](void* s) { XXH3_freeState(static_cast<XXH3_state_t*>(s)); });
  XXH3_128bits_reset(static_cast<XXH3_state_t*>(state.get()));
  return state;
}

void update(const std::shared_ptr<void>& state, const void* bytes, size_t count) {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state.get()), bytes, count);
}

std::string digest(const std::shared_ptr<void>& state) {
  return hex(XXH3_128bits_digest(static_cast<const XXH3_state_t*>(state.get())));
}

mode_t mode_of(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0 ? status.st_mode : 0;
}
// A device, a pipe or a socket: nothing that a rename may replace.
bool is_device(const std::string& path) {
  const mode_t mode = mode_of(path);
  return mode != 0 && !S_ISREG(mode) && !S_ISDIR(mode);
}

// Renames without the fsync that files::rename adds.
void rename_only(const std::string& from, const std::string& to) {
  checked(Operation::rename, "cannot rename to", to,
          [&] { return std::rename(from.c_str(), to.c_str()); });
}

}  // namespace

void set_fault_hook(FaultHook hook) { fault_hook() = std::move(hook); }

std::string hash_of(std::string_view bytes) {
  return hex(XXH3_128bits(bytes.data(), bytes.size()));
}

Stamp stamp_of(const std::string& path) {
  const InputFile file(path);
  const auto state = new_hash();
  std::string block(size_t(1) << 20, '\0');
  for (uint64_t at = 0; at < file.size();) {
    const size_t count = size_t(std::min<uint64_t>(block.size(), file.size() - at));
    file.read(at, block.data(), count);
    update(state, block.data(), count);
    at += count;
  }
  return {file.size(), digest(state)};
}

OutputFile::OutputFile(const std::string& path)
    : path_(path), temporary_(path + ".tmp"), hash_(new_hash()) {
  // A rename would put a file in the place of /dev/stdout.
  in_place_ = is_device(path);
  if (is_folder(path)) fail("cannot write", path, EISDIR);
  descriptor_ =
      in_place_ ? open_file(path, O_WRONLY) : open_file(temporary_, O_WRONLY | O_CREAT | O_TRUNC);
}

OutputFile::~OutputFile() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  if (!in_place_) unlink(temporary_.c_str());
}

void OutputFile::write(const void* bytes, size_t count) {
  if (!write_bytes(descriptor_, path_, static_cast<const char*>(bytes), count))
    fail("cannot write", path_, errno);
  update(hash_, bytes, count);
  written_ += count;
}

Stamp OutputFile::commit() {
  if (in_place_) return {written_, digest(hash_)};
  sync_descriptor(descriptor_, path_);
  rename_only(temporary_, path_);
  close(descriptor_);
  descriptor_ = -1;
  sync_folder(parent_of(path_));
  return {written_, digest(hash_)};
}

void check_writable(const std::string& path) {
  if (!is_device(path)) const OutputFile never_committed(path);
}

Stamp write_atomically(const std::string& path, std::string_view bytes) {
  OutputFile file(path);
  file.write(bytes);
  return file.commit();
}

InputFile::InputFile(const std::string& path) : path_(path) {
  // Opening a pipe would wait for its writer.
  descriptor_ = open_file(path, O_RDONLY | O_NONBLOCK);
  struct stat status {};
  const bool known = fstat(descriptor_, &status) == 0;
  if (known && S_ISREG(status.st_mode)) {
    size_ = uint64_t(status.st_size);
    return;
  }
  const int error = errno;
  close(descriptor_);
  if (!known) fail("cannot read", path, error);
  throw CheckpointError("cannot read " + path + ": not a regular file");
}

InputFile::~InputFile() { close(descriptor_); }

void InputFile::read(uint64_t offset, void* to, size_t count) const {
  auto* at = static_cast<char*>(to);
  while (count > 0) {
    const ssize_t n = pread(descriptor_, at, count, off_t(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("cannot read", path_, errno);
    if (n == 0)
      throw CheckpointError("cannot read " + path_ + ": it ends at byte " + std::to_string(offset) +
                            ", " + std::to_string(count) + " more were expected");
    at += n;
    offset += uint64_t(n);
    count -= size_t(n);
  }
}

std::string read_all(const std::string& path, uint64_t limit) {
  const InputFile file(path);
  if (file.size() > limit)
    throw CheckpointError("cannot read " + path + ": " + std::to_string(file.size()) +
                          " bytes, at most " + std::to_string(limit) + " are expected");
  std::string bytes(size_t(file.size()), '\0');
  file.read(0, bytes.data(), bytes.size());
  return bytes;
}

RecordFile::RecordFile(const std::string& path, Open mode) : path_(path) {
  descriptor_ =
      open_file(path, O_WRONLY | O_CREAT | O_APPEND | (mode == Open::create ? O_EXCL : 0));
}

RecordFile::RecordFile(RecordFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

RecordFile::~RecordFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

void RecordFile::append(std::string_view record) {
  const off_t before = lseek(descriptor_, 0, SEEK_END);
  if (write_bytes(descriptor_, path_, record.data(), record.size())) return;
  const int error = errno;
  // Half a record would make everything after it unreadable. Where cutting fails too, the first
  // error is the news.
  if (before >= 0 && ftruncate(descriptor_, before) != 0)
    fail("cannot write or cut back", path_, error);
  fail("cannot write", path_, error);
}

void RecordFile::sync() { sync_descriptor(descriptor_, path_); }

Lock::Lock(Lock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

Lock& Lock::operator=(Lock&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

Lock::~Lock() {
  if (descriptor_ >= 0) close(descriptor_);
}

bool Lock::acquire(const std::string& path, const std::string& text, std::string& holder) {
  const int descriptor = open_file(path, O_RDWR | O_CREAT);
  if (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    std::array<char, 64> note{};
    const ssize_t n = pread(descriptor, note.data(), note.size(), 0);
    close(descriptor);
    if (error != EWOULDBLOCK) fail("cannot lock", path, error);
    holder.assign(note.data(), size_t(std::max<ssize_t>(n, 0)));
    return false;
  }
  descriptor_ = descriptor;
  // The note is for people only: the lock holds without it.
  if (ftruncate(descriptor, 0) == 0 && pwrite(descriptor, text.data(), text.size(), 0) < 0)
    errno = 0;
  return true;
}

bool exists(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0;
}

bool is_folder(const std::string& path) { return S_ISDIR(mode_of(path)); }

std::vector<std::string> list_folder(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(path.c_str()), closedir);
  if (!folder) fail("cannot list", path, errno);
  std::vector<std::string> names;
  while (const dirent* entry = readdir(folder.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool make_new_folder(const std::string& path) {
  if (const int error = fault(Operation::make_folder, path).error)
    fail("cannot create folder", path, error);
  if (mkdir(path.c_str(), 0777) == 0) return true;
  if (errno != EEXIST) fail("cannot create folder", path, errno);
  return false;
}

void make_folder(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) return;
    fail("cannot create folder", path, ENOTDIR);
  }
  if (errno != ENOENT) fail("cannot create folder", path, errno);
  const std::string parent = parent_of(path);
  if (parent != path) make_folder(parent);
  make_new_folder(path);
  sync_folder(parent);
}

void sync_folder(const std::string& path) {
  const int descriptor = open_file(path, O_RDONLY | O_DIRECTORY);
  try {
    sync_descriptor(descriptor, path);
  } catch (...) {
    close(descriptor);
    throw;
  }
  close(descriptor);
}

void rename(const std::string& from, const std::string& to) {
  rename_only(from, to);
  sync_folder(parent_of(to));
}

void exchange(const std::string& a, const std::string& b) {
  if (const int error = fault(Operation::rename, b).error) fail("cannot rename to", b, error);
  if (renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) != 0) {
    if (errno != EINVAL && errno != ENOSYS) fail("cannot rename to", b, errno);
    // A file system without the exchange (NFS): three renames, not atomic.
    const std::string aside = b + ".old.tmp";
    rename_only(b, aside);
    rename_only(a, b);
    rename_only(aside, a);
  }
  sync_folder(parent_of(b));
}

void remove_tree(const std::string& path) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return;
    fail("cannot remove", path, errno);
  }
  if (S_ISDIR(status.st_mode))
    for (const std::string& name : list_folder(path)) remove_tree(path + "/" + name);
  checked(Operation::remove, "cannot remove", path, [&] { return std::remove(path.c_str()); });
}

uint64_t free_bytes(const std::string& folder) {
  struct statvfs status {};
  checked(Operation::open, "cannot read the free space of", folder,
          [&] { return statvfs(folder.c_str(), &status); });
  const uint64_t injected = fault(Operation::space, folder).bytes;
  if (injected != UINT64_MAX) return injected;
  return uint64_t(status.f_bavail) * uint64_t(status.f_frsize);
}

std::string parent_of(const std::string& path) {
  const size_t end = path.find_last_not_of('/');
  if (end == std::string::npos) return path.empty() ? "." : "/";
  const size_t slash = path.find_last_of('/', end);
  if (slash == std::string::npos) return ".";
  const size_t last = path.find_last_not_of('/', slash);
  return last == std::string::npos ? "/" : path.substr(0, last + 1);
}

}  // namespace qt::files
