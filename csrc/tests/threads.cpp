// Several callers at once: products, programs, attention, and others who change the number of threads meanwhile.
#include <atomic>
#include <thread>

#include "model.h"

using check::Bytes;
using check::Model;
using check::Random;
using check::Sample;

namespace {

Bytes product(const Sample &sample, const Bytes &x, int64_t tokens) {
  const hgx_matrix &m = sample.matrix;
  Bytes scratch(hgx_prepared_bytes(m.inputs, tokens, HGX_INT8)), y(4 * tokens * m.outputs);
  CHECK_OK(hgx_linear(&m, tokens, x.data(), HGX_F32, m.inputs, HGX_INT8, nullptr, y.data(), HGX_F32, m.outputs,
                      scratch.data(), scratch.size()),
           sample.name);
  return y;
}

}  // namespace

void drive_threads(int rounds) {
  Random random(4);
  Sample sample = check::panels(random, 150, 260);
  check::halves(sample.rows, random);
  const int64_t tokens = 3;
  Bytes x(4 * tokens * sample.matrix.inputs);
  x.fill_numbers(random, 1.0f);
  CHECK_OK(hgx_set_threads(1), "threads");
  const Bytes expected = product(sample, x, tokens);
  Random seed(5);
  check::Shape shape = check::random_shape(seed);
  std::vector<int32_t> ids{1, 2, 3, 4}, sequence{0, 0, 0, 0}, position{0, 1, 2, 3}, pick{3};
  std::vector<std::unique_ptr<Model>> models;
  for (int i = 0; i < 2; ++i) {
    Random same(6);
    models.push_back(std::make_unique<Model>(same, shape));
  }
  CHECK_OK(models[0]->run(ids, sequence, position, pick), "program");
  Bytes logits(4 * shape.vocabulary);
  std::memcpy(logits.data(), models[0]->logits(), static_cast<size_t>(logits.size()));

  std::atomic<bool> stop{false};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&] {
      for (int round = 0; round < rounds; ++round)
        CHECK(check::same(product(sample, x, tokens), expected, HGX_F32), "product among several callers");
    });
  for (auto &model : models)
    callers.emplace_back([&] {
      for (int round = 0; round < rounds; ++round) {
        CHECK_OK(model->run(ids, sequence, position, pick), "program");
        CHECK(std::memcmp(model->logits(), logits.data(), static_cast<size_t>(logits.size())) == 0,
              "program among several callers");
      }
    });
  std::thread setter([&] {
    for (int threads = 1; !stop.load(); threads = threads % 5 + 1) {
      CHECK_OK(hgx_set_threads(threads), "threads");
      std::this_thread::yield();
    }
  });
  std::thread tier([&] {
    const char *names[16];
    const int count = check::tiers(names);
    for (int i = 0; !stop.load(); i = (i + 1) % count) {
      CHECK_OK(hgx_set_tier(names[i]), names[i]);
      std::this_thread::yield();
    }
  });
  for (std::thread &caller : callers) caller.join();
  stop.store(true);
  setter.join();
  tier.join();
  CHECK_OK(hgx_set_threads(1), "threads");
  CHECK_OK(hgx_set_tier(nullptr), "tier");
}
