// core/base/files.h -- files that survive a crash: atomic writes, hashes, locks, named failures.
//
// Every function throws CheckpointError with the path and the system's reason ("No space left on
// device"). Nothing is ever written in place: a reader sees the old file or the complete new one.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace qt::files {

// Length and XXH3-128 of some bytes; the hash as 32 hexadecimal digits, as `xxhsum -H2` prints it.
struct Stamp {
  uint64_t bytes = 0;
  std::string hash;
  bool operator==(const Stamp&) const = default;
};

std::string hash_of(std::string_view bytes);
Stamp stamp_of(const std::string& path);

// A file that appears under `path` at commit() and not before; without commit() nothing is left. A
// device or a pipe of that name is written to as it is.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();
  void write(const void* bytes, size_t count);
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }
  Stamp commit();  // fsync, rename into place, fsync of the folder

 private:
  std::string path_, temporary_;
  int descriptor_ = -1;
  bool in_place_ = false;
  uint64_t written_ = 0;
  std::shared_ptr<void> hash_;
};

// Fails as writing `path` would, and leaves nothing.
void check_writable(const std::string& path);
Stamp write_atomically(const std::string& path, std::string_view bytes);

class InputFile {
 public:
  explicit InputFile(const std::string& path);  // a regular file
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  ~InputFile();
  uint64_t size() const { return size_; }
  void read(uint64_t offset, void* to, size_t count) const;  // exactly count bytes

 private:
  std::string path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

// The whole file; refused where it is larger than `limit` bytes.
std::string read_all(const std::string& path, uint64_t limit = uint64_t(1) << 30);

// A file that grows by whole records: one write() each. A record that could not be written
// completely is cut off again.
class RecordFile {
 public:
  enum class Open { create, append };  // create: refused where the file exists
  RecordFile(const std::string& path, Open mode);
  RecordFile(RecordFile&& other) noexcept;
  RecordFile& operator=(const RecordFile&) = delete;
  ~RecordFile();
  void append(std::string_view record);
  void sync();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int descriptor_ = -1;
};

// An advisory lock on a file, held until destruction or the end of the process, however it ends.
class Lock {
 public:
  Lock() = default;
  Lock(Lock&& other) noexcept;
  Lock& operator=(Lock&& other) noexcept;
  ~Lock();
  // False, and `holder` the text which the holder left (its process id), where another process
  // holds it.
  bool acquire(const std::string& path, const std::string& text, std::string& holder);

 private:
  int descriptor_ = -1;
};

bool exists(const std::string& path);
bool is_folder(const std::string& path);                        // or a link to one
std::vector<std::string> list_folder(const std::string& path);  // names, sorted
void make_folder(const std::string& path);  // with its parents; nothing where it is there already
bool make_new_folder(const std::string& path);  // false where it exists; the parent must be there
void sync_folder(const std::string& path);
void rename(const std::string& from, const std::string& to);  // and fsync of the folder
// Swaps two names, atomically where the file system can (all but network ones).
void exchange(const std::string& a, const std::string& b);
void remove_tree(const std::string& path);       // links are removed, never followed
uint64_t free_bytes(const std::string& folder);  // what this user may still write there
std::string parent_of(const std::string& path);  // "." where there is none

// For tests: asked before each step of the functions above. `error` is the errno to fail with; a
// write writes `bytes` bytes first (and the rest in a second call where error is 0); for
// Operation::space `bytes` stands for the free space.
enum class Operation { open, write, sync, rename, remove, make_folder, space };
struct Fault {
  int error = 0;
  uint64_t bytes = UINT64_MAX;  // all
};
using FaultHook = std::function<Fault(Operation, const std::string& path)>;
void set_fault_hook(FaultHook hook);  // empty: none

}  // namespace qt::files
