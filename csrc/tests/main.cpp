// Runs the drivers named on the command line, each with a number of rounds: `drivers matrices 200 threads 20`.
#include "check.h"

int main(int count, char **arguments) {
  struct Driver {
    const char *name;
    void (*run)(int);
  };
  static const Driver drivers[] = {{"matrices", drive_matrices}, {"attention", drive_attention},
                                   {"programs", drive_programs}, {"arguments", drive_arguments},
                                   {"threads", drive_threads}};
  if (count < 3) {
    std::fprintf(stderr, "usage: %s DRIVER ROUNDS ...\n", arguments[0]);
    return 2;
  }
  const char *names[16];
  const int tiers = check::tiers(names);
  std::printf("tiers:");
  for (int i = 0; i < tiers; ++i) std::printf(" %s", names[i]);
  std::printf("\n");
  for (int i = 1; i + 1 < count; i += 2) {
    bool known = false;
    for (const Driver &driver : drivers) {
      if (std::string(driver.name) != arguments[i]) continue;
      known = true;
      driver.run(std::atoi(arguments[i + 1]));
      std::printf("%s: %s rounds\n", arguments[i], arguments[i + 1]);
      std::fflush(stdout);
    }
    if (!known) {
      std::fprintf(stderr, "no driver %s\n", arguments[i]);
      return 2;
    }
  }
  return 0;
}
