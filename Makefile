# The front door: `make help` says what there is. CMake does the building (CMakePresets.json).
SHELL := /bin/sh
PREFIX ?= /usr/local
JOBS   ?= $(shell nproc)

RELEASE = build/release

# A user's compiler may know warnings that ours does not, so only the tests take them for errors.

# Debian and Ubuntu names. Only what a build needs; tests and fuzzing add theirs.
DEPS_BUILD = gcc libc6-dev cmake ninja-build pkg-config libyajl-dev libjansson-dev libutf8proc-dev libxxhash-dev \
             libpng-dev libjpeg-dev liburing-dev libedit-dev
DEPS_TEST  = $(DEPS_BUILD) g++ clang libcmocka-dev gcovr valgrind
DEPS_BENCH = $(DEPS_BUILD) libopenblas0 libxsmm-dev libjemalloc2 libtcmalloc-minimal4 libmimalloc2.0
DEPS_STREAM = $(DEPS_BUILD) python3 python3-venv fio
DEPS_FUZZ  = $(DEPS_BUILD) clang libcmocka-dev

# $(call install_deps,PACKAGES): no apt call at all when everything is there.
install_deps = @sh tools/deps.sh $(1)

.DEFAULT_GOAL := release
.PHONY: help release deps demo demo-model test fuzz bench bench-stream bench-replay soak install clean format man

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

release: deps ## build the library and the command (the default)
	@cmake --preset release -DCENOTE_TESTS=OFF -DCENOTE_BENCH=OFF -DCENOTE_WERROR=OFF \
	    >build/configure.log || { cat build/configure.log; exit 1; }
	@cmake --build $(RELEASE) -j $(JOBS)

deps: ## install the Debian or Ubuntu packages that a build needs and lacks
	@mkdir -p build
	$(call install_deps,$(DEPS_BUILD))

demo: release ## build, then ask the demo model about three pictures, inside a budget
	@$(RELEASE)/cli/cenote demo

# Nobody needs to: the model is in the repository. An hour of one core and more.
demo-model: ## train the demo model anew, into build/demo-model (python 3 with venv)
	@sh tools/demo_model/make.sh build/demo-model

test: ## everything: sanitizers, coverage, then the release build's tests
	@mkdir -p build
	$(call install_deps,$(DEPS_TEST))
	@sh tools/test.sh $(JOBS)

fuzz: ## fuzz the file readers and the buddy allocator, FUZZ_SECONDS each (default 600)
	@mkdir -p build
	$(call install_deps,$(DEPS_FUZZ))
	@sh tools/fuzz.sh $${FUZZ_SECONDS:-600} $(JOBS)

bench: ## build and run the benches; each prints how it was called
	@mkdir -p build
	$(call install_deps,$(DEPS_BENCH))
	@sh tools/bench.sh $(JOBS)

# Wants the machine for itself, 20 GB of disk and, for cgroups and the disk's cap, root.
bench-stream: ## streaming against its bound and against peers (half an hour; docs/benchmarks.md)
	@mkdir -p build
	$(call install_deps,$(DEPS_STREAM))
	@sh tools/bench_stream.sh $(JOBS) $(ARGS)

bench-replay: release ## footprints of the allocators on a serving trace (a minute; docs/allocation.md)
	$(call install_deps,python3)
	@python3 bench/replay.py $(RELEASE)/cli/cenote $(ARGS)

soak: ## SOAK_OPERATIONS of churn (10^9), then stress tests, SOAK_MINUTES (30) of them
	@mkdir -p build
	$(call install_deps,$(DEPS_TEST))
	@sh tools/soak.sh $${SOAK_MINUTES:-30} $(JOBS) $${SOAK_OPERATIONS:-1000000000}

install: release ## install below PREFIX (default /usr/local)
	@cmake --install $(RELEASE) --prefix $(PREFIX)

man: release ## write the manual page and the completion from the option tables
	@$(RELEASE)/cli/cenote help --man >docs/man/cenote.1
	@$(RELEASE)/cli/cenote help --bash >cli/cenote.bash

format: ## lay out all sources by .clang-format
	@git ls-files '*.c' '*.h' | xargs clang-format -i

clean: ## remove all that was built
	@rm -rf build
