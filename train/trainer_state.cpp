// train/trainer_state.cpp -- how a run begins, is saved, is continued and ends.
#include <algorithm>
#include <set>
#include <sstream>

#include "core/base/log.h"
#include "core/device/cpu.h"
#include "core/library/library.h"
#include "core/tensor/transfer.h"
#include "deploy/build_program.h"
#include "deploy/model_file.h"
#include "train/cpu_training.h"
#include "train/gpu_training.h"
#include "train/network.h"
#include "train/threads.h"
#include "train/trainer.h"
#include "train/version.h"

namespace qt {

namespace {

// Each line once, sorted: two ranks may have met the same picture.
std::string lines_of_all(const std::vector<std::string>& texts) {
  std::set<std::string> lines;
  for (const std::string& text : texts) {
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.insert(line);
  }
  std::string all;
  for (const std::string& line : lines) all += line + "\n";
  return all;
}

// What the sets know to be bad, in this process.
std::string lines_of(const std::vector<std::shared_ptr<const Dataset>>& sets) {
  std::string text;
  for (const auto& set : sets)
    for (const BadSample& sample : set->bad_samples()) text += sample.cause + "\n";
  return text;
}

// "avx2", or where ranks differ that of each in their order: "avx2, avx512_bf16".
std::string of_ranks(Communicator& ranks, const std::string& mine) {
  if (ranks.alone()) return mine;
  const std::vector<std::string> all = gathered(ranks, mine, "what ranks compute with");
  if (std::set(all.begin(), all.end()).size() == 1) return mine;
  std::string list;
  for (const std::string& text : all) list += (list.empty() ? "" : ", ") + text;
  return list;
}

// To what an earlier process left there.
void add_lines(const std::string& file, const std::string& text) {
  std::vector<std::string> texts{text};
  if (files::exists(file)) texts.push_back(files::read_all(file));
  files::write_atomically(file, lines_of_all(texts));
}

}  // namespace

std::vector<Phase> plan(const Experiment& experiment) {
  std::vector<Phase> list;
  if (experiment.train.float_phase.epochs > 0)
    list.push_back({"float", &experiment.train.float_phase, ForwardMode::float32});
  if (experiment.train.qat_phase.epochs > 0)
    list.push_back({"qat", &experiment.train.qat_phase, forward_mode(experiment.train.forward)});
  return list;
}

Trainer::Trainer(const Experiment& experiment, const TrainerOptions& options)
    : experiment_(experiment),
      options_(options),
      ranks_(options.ranks ? *options.ranks : single_communicator()),
      device_(options.device ? options.device : open_device(experiment.device)),
      plan_(plan(experiment)) {
  check_device();
  for (const Phase& phase : plan_)
    check_schedule(phase.config->schedule, phase.config->lr, "train." + phase.name);
  const int threads = experiment.train.threads;
  state_.threads = pin_threads(threads > 0 ? threads : ranks_.fair_threads());
  state_.run.world = ranks_.world();
  DatasetSpec spec = dataset_spec(experiment);
  spec.warn_of_unused = ranks_.writes();  // the others have the same to say
  train_set_ = make_dataset(spec, Split::train);
  test_set_ = make_dataset(spec, Split::test);
  check_alike(*train_set_, *test_set_, spec.path);
  if (!ranks_.alone()) check_agreement(ranks_, facts());
  model_ = build_model(experiment, *train_set_);
  parameters_ = parameters_of(*model_);
  norms_ = norms_of(*model_);
  if (!ranks_.alone()) observe_on(*model_, ranks_);
  LoaderSpec loading = loader_spec();
  loading.windows_later = device_->on_gpu();
  loader_ = std::make_unique<Loader>(train_set_, loading);
  const int64_t accumulate = experiment.train.accumulate;
  steps_per_epoch_ = loader_->batches_per_epoch() / accumulate;
  if (options.overfit_batches)
    steps_per_epoch_ = std::min(steps_per_epoch_, *options.overfit_batches / accumulate);
  if (options.limit_train_batches)
    steps_per_epoch_ = std::min(steps_per_epoch_, *options.limit_train_batches / accumulate);
  if (steps_per_epoch_ < 1)
    throw ConfigError("an epoch has no step: " + std::to_string(train_set_->size()) +
                      " training pictures, batch " + std::to_string(experiment.train.batch) +
                      ", accumulate " + std::to_string(accumulate));
  backward_ = backward_precision(experiment, device_->on_gpu());
  state_.run.seed = experiment.train.seed;
  {
    const auto section = device_->enter();
    state_.run.library = current_library().name();
  }
  for (const Phase& phase : plan_) state_.run.phases.push_back(phase.name);
  state_.run.config_hash = config_hash(experiment);
  state_.run.config = course_of(experiment);
  state_.run.program_version = version_number;
  if (!device_->on_gpu()) state_.run.isa = of_ranks(ranks_, name_of(cpu_isa()));
  state_.run.backward = of_ranks(ranks_, name_of(backward_));
  state_.run.saved = experiment.train.saved;
  state_.run.steps_per_epoch = steps_per_epoch_;
  state_.run.training_pictures = train_set_->size();
}

RunFacts Trainer::facts() const {
  RunFacts facts = facts_of(experiment_, *train_set_, *test_set_);
  const auto note = [&](const char* option, const std::optional<int64_t>& batches) {
    facts[option] = batches ? std::to_string(*batches) : "not given";
  };
  note("--limit-train-batches", options_.limit_train_batches);
  note("--overfit-batches", options_.overfit_batches);
  return facts;
}

void Trainer::check_device() const {
  if (!device_->on_gpu()) return check_precisions_of_cpu();
  if (experiment_.train.qat_phase.epochs > 0 && experiment_.train.forward == "exact_float")
    throw ConfigError("train.forward exact_float is the CPU's way to multiply codes; device " +
                      device_->name() + " takes int8 or fake_quant");
}

void Trainer::check_precisions_of_cpu() const {
  const TrainConfig& train = experiment_.train;
  const bool has_bf16 = cpu_has(Isa::avx512_bf16);
  const auto check = [&](const std::string& key, const std::string& value,
                         const std::string& allowed) {
    if (value == "tf32")
      throw ConfigError("train." + key + " tf32 is a GPU's arithmetic; device " + device_->name() +
                        " takes " + allowed);
    if (value == "bf16" && !has_bf16)
      throw ConfigError("train." + key +
                        " bf16 needs a CPU that multiplies bf16 (avx512_bf16) or a GPU; this one's "
                        "instruction set is " +
                        name_of(cpu_isa()) + ", it takes " + allowed);
  };
  check("backward", train.backward, has_bf16 ? "auto, f32 or bf16" : "auto or f32");
  check("float_forward", train.float_forward, has_bf16 ? "auto, f32 or bf16" : "auto or f32");
}

LoaderSpec Trainer::loader_spec() const {
  LoaderSpec spec = train_loader_spec(experiment_);
  spec.drop_last = train_set_->size() >= spec.batch;
  spec.rank = ranks_.rank(), spec.world = ranks_.world();
  if (train_set_->size() < spec.world)
    throw ConfigError(std::to_string(train_set_->size()) + " training pictures for " +
                      std::to_string(spec.world) + " processes; at least one for each is needed");
  if (options_.overfit_batches) {
    spec.shuffle = false;
    spec.augment = AugmentSpec();
  }
  return spec;
}

int64_t Trainer::total_epochs() const {
  int64_t epochs = 0;
  for (const Phase& phase : plan_) epochs += phase.config->epochs;
  return epochs;
}

std::string Trainer::summary() const {
  int64_t count = 0;
  for (const auto& [name, parameter] : parameters_)
    if (parameter->kind != Parameter::Kind::step) count += parameter->var.value().elements();
  std::string text = experiment_.model.name.get() + ", " + std::to_string(count) + " parameters; " +
                     experiment_.data.kind.get() + ": " + std::to_string(train_set_->size()) +
                     " training and " + std::to_string(test_set_->size()) + " test pictures of " +
                     std::to_string(train_set_->height()) + "x" +
                     std::to_string(train_set_->width()) + ", " +
                     std::to_string(train_set_->classes().size()) + " classes; ";
  for (const Phase& phase : plan_)
    text += std::to_string(phase.config->epochs.get()) + " epochs " + phase.name +
            (phase.mode == ForwardMode::float32
                 ? ", "
                 : std::string(" (forward ") + name_of(phase.mode) + "), ");
  text += std::to_string(steps_per_epoch_) + " steps an epoch, " + std::to_string(state_.threads) +
          " threads";
  if (device_->on_gpu()) text += ", on " + device_->name();
  if (ranks_.alone()) return text;
  return text + " on each of " + std::to_string(state_.run.world) + " processes (" + ranks_.name() +
         "), " + (synchronized() ? "synchronized" : "local") + " batch statistics";
}

Communicator* Trainer::synchronized() const {
  return !ranks_.alone() && experiment_.distributed.sync_batchnorm ? &ranks_ : nullptr;
}

void Trainer::open(const RunFolder* folder, const std::optional<LoadedCheckpoint>& from) {
  folder_ = folder;
  by_writer(ranks_, "preparing checkpoints", [&] {
    store_ = std::make_unique<CheckpointStore>(
        folder->checkpoints(), experiment_.checkpoint.keep_last, experiment_.checkpoint.keep_best);
    uint64_t bytes = 1 << 20;
    for (const auto& [name, tensor] : saved_state(*model_)) bytes += 2 * tensor.bytes();
    store_->prepare(bytes);
  });
  if (from) restore(*from);
  by_writer(ranks_, "opening the log", [&] { open_log(); });
  if (!log_) open_log();  // which writes nothing
  log_->say(summary());
  if (from) {
    log_->say("continuing after step " + std::to_string(state_.at.steps_done) + " of " +
              from->folder);
    if (!state_.engines.empty())
      log_->say("engines of " + std::to_string(state_.engines.size()) +
                " convolutions are those of the checkpoint");
  } else if (!experiment_.train.init_from->empty()) {
    const bool with_steps = experiment_.quant.calibration.batches == 0 && plan_.back().quantized();
    by_writer(ranks_, "first weights",
              [&] { init_from(*model_, experiment_.train.init_from, with_steps); });
    log_->say("first weights from " + experiment_.train.init_from.get());
  }
  share_state(ranks_, *model_);
  if (device_->on_gpu()) {
    twin_ = build_model(experiment_, *train_set_);
    const auto section = device_->enter();
    place_here(*model_);
  }
  was_complete_ = is_complete();
  if (was_complete_)
    return log_->say("the run is complete: its checkpoints, config and programs stay");
  // A phase that was added behind a complete run finds the momentum of the phase before.
  const bool within = state_.at.epoch + state_.at.step > 0;
  listing_bad_samples(
      [&] { begin_phase(within ? &from->content.tensors("optim.safetensors") : nullptr); });
}

void Trainer::open_log() {
  log_ = std::make_unique<TrainingLog>(
      experiment_,
      TrainingLogOptions{.writes = ranks_.writes(),
                         .run_folder = folder_ ? folder_->path() : "",
                         .resumed = folder_ && folder_->resumed(),
                         .show_progress = options_.show_progress,
                         .steps_per_epoch = steps_per_epoch_,
                         .total_steps = total_epochs() * steps_per_epoch_,
                         .total_epochs = total_epochs()},
      state_);
}

// That this config's training passes through where the checkpoint stands.
void Trainer::check_position(const std::string& folder) const {
  const Position& at = state_.at;
  const auto phases = int64_t(plan_.size());
  std::string ours, theirs;
  for (const Phase& phase : plan_) ours += (ours.empty() ? "" : ", ") + phase.name;
  for (const std::string& name : state_.run.phases) theirs += (theirs.empty() ? "" : ", ") + name;
  const auto known = int64_t(state_.run.phases.size());
  bool same = at.phase >= known || at.phase < phases;
  for (int64_t i = 0; i < std::min({known, phases, at.phase + 1}); ++i)
    same = same && state_.run.phases[size_t(i)] == plan_[size_t(i)].name;
  if (!same)
    throw CheckpointError(folder + " stands in phase " + std::to_string(at.phase + 1) + " of " +
                          theirs + "; the phases of this config are: " + ours +
                          ". For a new run from its weights: train.init_from");
  if (at.phase > phases || at.step > steps_per_epoch_ ||
      (at.phase < phases && at.epoch >= phase().config->epochs))
    throw CheckpointError(folder + " stands beyond the end of this config's training");
  int64_t before = 0;
  for (int64_t i = 0; i < at.phase; ++i) before += plan_[size_t(i)].config->epochs;
  if (at.epochs_done - at.epoch != before)
    throw CheckpointError(
        folder + " was reached after " + std::to_string(at.epochs_done - at.epoch) +
        " epochs in the phases before; in this config they have " + std::to_string(before) +
        ". For a new run from its weights: train.init_from");
}

void Trainer::restore(const LoadedCheckpoint& from) {
  const RunIdentity now = state_.run;
  const int threads = state_.threads;
  const auto warn = [&](const std::string& text) {
    if (ranks_.writes()) log::warn(text);  // the others have the same to say
  };
  state_ = state_from_json(from.content.state_json, from.folder);
  if (options_.steps_done) *options_.steps_done = state_.at.steps_done;
  saved_after_ = state_.at.steps_done;
  check_position(from.folder);
  load_state(*model_, from.content.tensors("model.safetensors"), true);
  check_steps("network of " + from.folder);
  if (store_) leave_behind(from);
  for (const std::string& difference : differences(state_.run, now)) warn(difference);
  const bool other_world = state_.run.world != now.world;
  if (experiment_.train.threads == 0 && !other_world)
    pin_threads(state_.threads);
  else if (!other_world && state_.threads != threads)
    warn("the checkpoint was made with " + std::to_string(state_.threads) +
         " threads, this run uses " + std::to_string(threads) + ": the last bits may differ");
  if (experiment_.train.threads != 0 || other_world) state_.threads = threads;
  {
    const auto section = device_->enter();
    if (state_.run.library != now.library) state_.engines.clear();
    current_library().take_engines(state_.engines);
  }
  // With another phase the last one is another one.
  if (!state_.run.phases.empty() && state_.run.phases != now.phases) state_.best_top1.reset();
  state_.run = now;
}

// That the steps of a checkpoint are all there where it needs them, and fit this config's codes.
void Trainer::check_steps(const std::string& what) const {
  const CodeRanges ours = code_ranges(*model_);
  const bool needed = is_complete() ? plan_.back().quantized() : state_.at.calibrated;
  const bool there = is_quantized(*model_, what) || ours.empty();
  if (!there && needed)
    throw CheckpointError("the " + what + " has no step for " + ours.begin()->first +
                          ": it was trained with another quant section");
  if (!there && plan_.back().quantized() && experiment_.quant.calibration.batches == 0)
    throw CheckpointError("the " + what +
                          " has no quantizer steps, and quant.calibration.batches is 0: nothing "
                          "would choose them (train.init_from is not read where a run is "
                          "continued)");
  check_code_ranges(state_.codes, ours, what);
}

// The checkpoints after the one that the run continues.
void Trainer::leave_behind(const LoadedCheckpoint& from) const {
  for (const int64_t step : from.passed_over)
    log::warn("the checkpoint of step " + std::to_string(step) +
              ", which could not be used, is kept as " + store_->set_aside(step));
  store_->discard_after(from.step);
}

// optimizer_state: of a checkpoint within this phase; null at a phase's first step.
void Trainer::begin_phase(const NamedTensors* optimizer_state) {
  const auto section = device_->enter();
  const PhaseConfig& config = *phase().config;
  phase_began_at_ = state_.at.steps_done - state_.at.epoch * steps_per_epoch_ - state_.at.step;
  steps_.reset();  // before what they watch
  const OptimizerConfig& optimizer = experiment_.train.optimizer;
  optimizer_ =
      make_optimizer({.kind = optimizer.kind,
                      .momentum = optimizer.momentum,
                      .nesterov = optimizer.nesterov,
                      .weight_decay = config.weight_decay->value_or(optimizer.weight_decay),
                      .step_lr_multiplier = experiment_.quant.step_lr_multiplier},
                     parameters_);
  learning_rate_.emplace(config.schedule, config.lr, steps_per_epoch_,
                         config.epochs * steps_per_epoch_);
  if (phase().quantized() && !state_.at.calibrated) calibrate_now();
  calibration_is_new_ = phase().quantized() && state_.at.epoch == 0 && state_.at.step == 0 &&
                        experiment_.quant.calibration.batches > 0;
  set_missing_floors(*model_);
  if (optimizer_state) optimizer_->load(*optimizer_state);
  make_buckets();
  const StepOptions options{
      .mode = phase().mode,
      .float_forward = float_forward_precision(experiment_, device_->on_gpu()),
      .backward = backward_,
      .keep_16_bits = state_.run.saved == "f16",
      .accumulate = experiment_.train.accumulate,
      .label_smoothing = experiment_.train.label_smoothing,
      .takes_back = skips(),
      .say = [this](const std::string& text) { log_->say(text); },
      .note = [this](const char* activity) { note(activity); },
      .ranks = ranks_.alone() ? nullptr : &ranks_,
      .buckets = buckets_.get(),
      .synchronize = synchronized()};
  if (device_->on_gpu())
    steps_ = std::make_unique<GpuTraining>(*model_, *optimizer_, *loader_, options);
  else
    steps_ = std::make_unique<CpuTraining>(*model_, *optimizer_, *loader_, options);
}

// Of the parameters that this phase trains.
void Trainer::make_buckets() {
  buckets_.reset();
  if (ranks_.alone()) return;
  const bool quantized = phase().quantized();
  std::vector<NamedVar> trained;
  for (const auto& [name, parameter] : parameters_)
    if (parameter->var.wants_grad() && (quantized || parameter->kind != Parameter::Kind::step))
      trained.push_back({name, parameter->var});
  const DistributedConfig& config = experiment_.distributed;
  buckets_ = std::make_unique<GradientBuckets>(
      trained, ranks_,
      GradientBuckets::Options{.bytes = int64_t(config.bucket_megabytes * double(1 << 20)),
                               .wire = config.wire == "bf16" ? Wire::bf16 : Wire::f32});
}

// After forward passes that updated running statistics outside of training.
void Trainer::average_statistics() {
  if (synchronized()) return;
  StatisticsAverage average(norms_, ranks_);
  average.start();
  average.finish();
}

void Trainer::calibrate_now() {
  const int batches = experiment_.quant.calibration.batches;
  Loader loader(train_set_, loader_spec());
  note("calibration");
  const int seen = calibrate(*model_, loader, batches, phase().mode, synchronized());
  average_statistics();
  state_.at.calibrated = true;
  log_->say(batches == 0 ? "quantizer steps are those of " + experiment_.train.init_from.get()
                         : "quantizer steps chosen from " + std::to_string(seen) + " batches" +
                               (seen < batches ? ", all of an epoch" : ""));
}

void Trainer::save(std::optional<double> score) {
  read_steps();
  note("saving");
  meet(options_.simulation, ranks_, Simulation::Place::save);
  by_writer(ranks_, "saving", [&] {
    log_->sync();
    Checkpoint content;
    {
      const auto section = device_->enter();
      content.files["model.safetensors"] = saved_state(*model_);
      NamedTensors& kept = content.files["optim.safetensors"] = optimizer_->state();
      for (auto& [name, tensor] : kept) tensor = on_host(tensor);
      state_.engines = current_library().engine_choices();
      state_.codes = is_quantized(*model_, "network") ? code_ranges(*model_) : CodeRanges();
    }
    content.state_json = to_json(state_);
    store_->save(state_.at.steps_done, content, score, phase_began_at_);
    folder_->write_status(
        {.state = RunState::running, .step = state_.at.steps_done, .exit_code = {}, .message = ""});
  });
  saved_after_ = state_.at.steps_done;
  write_bad_samples();  // which may end the run
}

std::string Trainer::what_was_evaluated() const {
  const Phase& last =
      plan_.at(size_t(std::min<int64_t>(state_.at.phase, int64_t(plan_.size()) - 1)));
  if (last.mode == ForwardMode::float32) return "float";
  return has_program() ? "integer-program" : "simulated";
}

Program Trainer::integer_program() {
  if (twin_) {
    NamedTensors now;
    {
      const auto section = device_->enter();
      now = saved_state(*model_);
    }
    load_state(*twin_, now, true);
  }
  return build_program(twin_ ? *twin_ : *model_,
                       {.class_names = test_set_->classes(),
                        .resize = test_set_->resize_size(),
                        .notes = {{"config_hash", state_.run.config_hash},
                                  {"model", experiment_.model.name},
                                  {"step", std::to_string(state_.at.steps_done)},
                                  {"program_version", version_number}}});
}

void Trainer::save_program_files(const Program& program, bool best) {
  const std::string folder = folder_->file("export");
  files::make_folder(folder);
  save_program(folder + "/model.qat", program);
  if (best) save_program(folder + "/best.qat", program);
}

// Where an error ends the run, the pictures that this process knows to be bad are listed first.
void Trainer::listing_bad_samples(const std::function<void()>& work) const {
  try {
    work();
  } catch (const Error&) {
    const std::string text = lines_of({train_set_, test_set_});
    if (folder_ && !text.empty()) try {
        add_lines(folder_->file("bad_samples.txt"), text);
      } catch (const CheckpointError&) {
        // The first error is the news.
      }
    throw;
  }
}

// A rank that meets too many ends by itself; here those of all ranks count.
void Trainer::write_bad_samples() {
  std::string text, too_many;
  for (const auto& set : {train_set_, test_set_}) {
    std::string lines = lines_of({set});
    if (!ranks_.alone()) lines = lines_of_all(gathered(ranks_, lines, "unreadable pictures"));
    const auto bad = std::count(lines.begin(), lines.end(), '\n');
    if (double(bad) > experiment_.data.max_bad_fraction * double(set->size()))
      too_many = std::to_string(bad) + " of " + std::to_string(set->size()) +
                 " pictures are bad, more than data.max_bad_fraction allows; one of them: " +
                 lines.substr(0, lines.find('\n'));
    text += lines;
  }
  by_writer(ranks_, "the list of bad pictures", [&] {
    if (!text.empty() && folder_) add_lines(folder_->file("bad_samples.txt"), text);
  });
  if (!too_many.empty()) throw DataError(too_many);
}

// A run that was complete when it was continued is looked at once more, and not written.
void Trainer::finish() {
  if (!last_evaluation_) {
    state_.at.phase = int64_t(plan_.size()) - 1;
    last_evaluation_ = evaluate_and_export();
    state_.at.phase = int64_t(plan_.size());
  }
  by_writer(ranks_, "the end of the log", [&] {
    log_->sync();
    log_->finish();
  });
}

}  // namespace qt
