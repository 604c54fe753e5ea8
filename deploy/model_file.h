// deploy/model_file.h -- `model.qat`: an integer program in one safetensors file
// (docs/model_format.md).
#pragma once
#include <string>

#include "core/base/files.h"
#include "deploy/program.h"

namespace qt {

// Atomic and synced; the same program gives the same bytes. CheckpointError where the program is
// not valid or the file system refuses.
files::Stamp save_program(const std::string& path, const Program& program);

// CheckpointError naming the file, the instruction or tensor and the cause for anything but a
// complete, valid program of a version this build knows.
Program load_program(const std::string& path);

}  // namespace qt
