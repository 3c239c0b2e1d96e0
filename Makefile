# Folio. `make serve` and `make test` do all the set-up they need; `make help` lists the rest.

PYTHON ?= python3
BIN := .venv/bin
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" $(LOCK_FLAGS)

RELEASE := import sys; print(sys.version_info[:2])

# Installs requirements/$(1).txt and the project into .venv, next to what is already there. The lock is complete, so pip must
# install it as it stands (--no-deps): an older pip would otherwise resolve again and look at releases newer than the lock.
# The kernel is compiled meanwhile. $(2): the newest Python that has all of these packages.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
define install
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $(2)))' || \
		{ echo "This needs Python 3.11 to 3.$(2), and $(PYTHON) is $$($(PYTHON) --version). Name another one: make $(MAKECMDGOALS) PYTHON=python3.$(2)$(3)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "$(PYTHON) cannot create virtual environments. On Debian: apt-get install $(notdir $(PYTHON))-venv"; exit 1; }
	@if [ -e $(BIN) ] && [ "$$($(BIN)/python -c '$(RELEASE)' 2>&1)" != "$$($(PYTHON) -c '$(RELEASE)')" ]; then \
		echo "replacing .venv, which is of another Python"; rm -rf .venv; fi
	$(PYTHON) -m venv .venv
	@$(MAKE) --no-print-directory .venv/kernel & \
	echo "$(PIP) --require-hashes -r requirements/$(1).txt -r requirements/build.txt"; \
	$(PIP) --require-hashes -r requirements/$(1).txt -r requirements/build.txt && $(PIP) --no-build-isolation -e .; \
	result=$$?; wait; exit $$result
	$(BIN)/python -m pip check --disable-pip-version-check
	@touch $@
endef

.PHONY: help dist setup setup-benchmarks serve train model test clients fast soak coverage lint types format lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# All of these share .venv: one after another, in the order of the prerequisites.
.NOTPARALLEL:

setup: .venv/ready .venv/kernel ## the virtual environment, locked dependencies and the project, in .venv

.venv/ready: pyproject.toml requirements/dev.txt requirements/build.txt
	$(HAS_TENSORFLOW)
	$(call install,dev,13,$(NO_TENSORFLOW))
	@touch .venv/serves .venv/trains

# Serving and training each need a part of the packages only.
.venv/serves: pyproject.toml requirements/service.txt requirements/build.txt
	$(call install,service,14)

.venv/trains: pyproject.toml requirements/trainer.txt requirements/build.txt
	$(HAS_TENSORFLOW)
	$(call install,trainer,13,$(NO_TENSORFLOW))

# The kernel, in C, beside its sources. Without a C compiler that works, one is downloaded for this alone. If that fails too, the
# service has a slower step: build.py says so, and the next `make` tries again.
KERNEL := service/generation/kernel
.venv/kernel: $(KERNEL)/build.py $(wildcard $(KERNEL)/*.[ch])
	@if $(BIN)/python $(KERNEL)/build.py --else-download requirements/compiler.txt; then touch $@; fi

NO_TENSORFLOW := . TensorFlow has no release for newer ones. Serving works: make serve
HAS_TENSORFLOW = @[ "$$(uname -sm)" != "Darwin x86_64" ] || \
	{ echo "TensorFlow has no current release for Macs with Intel's processors. Serving works: make serve"; exit 1; }

serve: .venv/serves .venv/kernel ## serve the models in models/ on http://127.0.0.1:8000
	$(BIN)/python -m service

train: .venv/trains .venv/kernel ## train a model on a text and publish it: make train TEXT=my.txt NAME=mine
	$(BIN)/python -m trainer $(if $(TEXT),--corpus "$(TEXT)") $(if $(NAME),--name "$(NAME)") $(TRAIN_FLAGS)

# Three generations of students, each from what three teachers write (docs/distillation.md).
# teacher-0 was trained in bfloat16, all others in float32: `--precision auto` chooses by the CPU. TRAIN_FLAGS
# go to every new run. PUBLISHED: a folder, quoted.
PUBLISHED := "$(or $(MODELS),dist/models)"

# $(1): a name. $(2): the options of its run. A run that was interrupted continues. A version that exists is kept.
define train_once
	@state=$(PUBLISHED)/$(1)/.training/state.safetensors; \
	if [ -e "$$state" ]; then set -- --resume; \
	elif [ -e $(PUBLISHED)/$(1)/1 ]; then echo "$(1) exists"; exit; \
	else set -- $(2) $(TRAIN_FLAGS); fi; \
	set -x; $(BIN)/python -m trainer --models-dir $(PUBLISHED) --name $(1) "$$@"
endef

STUDENT := --text-share 0.1 --teachers-at-a-time 3

model: .venv/trains .venv/kernel ## rebuild the included model and its teachers in MODELS (dist/models); about 7 hours on two cores
	$(call train_once,teacher-0,--seed 0)
	$(call train_once,first-half-1,--seed 1 --epochs 10 --weight-drop 0.1)
	$(call train_once,first-half-2,--seed 2 --epochs 10 --weight-drop 0.1)
	$(call train_once,teacher-1,--seed 11 --epochs 11 --init-from $(PUBLISHED)/first-half-1)
	$(call train_once,teacher-2,--seed 12 --epochs 11 --init-from $(PUBLISHED)/first-half-2)
	$(call train_once,first-student,$(STUDENT) --epochs 10 --init-from $(PUBLISHED)/teacher-0 \
		--teacher $(addprefix $(PUBLISHED)/,teacher-0 teacher-1 teacher-2))
	$(call train_once,teacher-3,--seed 3 --epochs 26 --patience 0)
	$(call train_once,teacher-4,--seed 4 --epochs 26 --patience 0)
	$(call train_once,second-student,$(STUDENT) --epochs 10 --patience 0 --init-from $(PUBLISHED)/first-student \
		--teacher $(addprefix $(PUBLISHED)/,first-student teacher-3 teacher-4))
	$(call train_once,shakespeare,$(STUDENT) --epochs 40 --patience 0 --init-from $(PUBLISHED)/second-student \
		--teacher $(addprefix $(PUBLISHED)/,second-student teacher-3 teacher-4))

# Several files of tests at a time. More processes than that would need more memory than many machines have.
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: setup lint types ## lint, types, tests
	$(PYTEST)

NODE := tests/clients/node
clients: setup .venv-clients/ready .venv-clients-openai-2/ready $(NODE)/node_modules/ready ## other people's clients and agent frameworks, against a real server
	.venv-clients/bin/pytest --numprocesses 2 --dist loadfile tests/clients --ignore tests/clients/openai_2
	.venv-clients-openai-2/bin/pytest tests/clients/openai_2

# Environments of their own: what these packages require does not go together with TensorFlow, nor all with each other.
.venv-%/ready: requirements/%.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-$*
	$(BIN)/uv pip sync --quiet --require-hashes --python .venv-$*/bin/python $<
	@touch $@

$(NODE)/node_modules/ready: $(NODE)/package-lock.json
	@if command -v npm >/dev/null; then npm ci --prefix $(NODE) --silent --no-audit --no-fund && touch $@; fi

fast: setup lint types ## lint, types, and the tests that each take less than a second
	$(PYTEST) -m "not slow"

soak: setup ## test real servers with misbehaving clients, volumes and clocks: 20 minutes (SOAK_FLAGS=--help lists options)
	$(BIN)/python -m tests.soak $(SOAK_FLAGS)

coverage: setup ## which branches the tests outside tests/end_to_end run; what runs in processes of its own does not count
	$(BIN)/pytest --ignore tests/end_to_end --cov --cov-report term-missing:skip-covered

lint: setup ## ruff and hadolint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile

types: setup ## mypy
	$(BIN)/mypy

# Wants PyTorch's CPU build; pip's configured index decides which one is installed. Not locked: see benchmarks/README.md.
setup-benchmarks: setup ## install the programs that benchmarks/ compares with into .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt

format: setup ## fix and format by ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup ## update the locks in requirements/ from pyproject.toml (LOCK_FLAGS=--upgrade for newer versions)
	$(LOCK) pyproject.toml --extra trainer --extra tracing --extra cluster --extra cuda --extra dev -o requirements/dev.txt
	$(LOCK) pyproject.toml --extra trainer -c requirements/dev.txt -o requirements/trainer.txt
	$(LOCK) pyproject.toml --extra gpu -c requirements/dev.txt -o requirements/gpu.txt
	$(LOCK) pyproject.toml --extra tracing -c requirements/dev.txt -o requirements/service.txt
	$(LOCK) pyproject.toml --extra cuda --extra tracing -c requirements/dev.txt -o requirements/cuda.txt
	$(LOCK) --group build -c requirements/dev.txt -o requirements/build.txt
	$(LOCK) --group compiler -c requirements/dev.txt -o requirements/compiler.txt
	$(LOCK) --group clients -o requirements/clients.txt
	$(LOCK) --group clients-openai-2 -o requirements/clients-openai-2.txt

# On any machine: a cross-compiler builds the library for each platform.
dist: setup ## the sdist and a wheel for each platform, in dist/
	$(BIN)/python -m hatchling build -d dist -t sdist
	for platform in manylinux_2_17_x86_64 manylinux_2_17_aarch64 macosx_11_0_x86_64 macosx_11_0_arm64; do \
		FOLIO_WHEEL=$$platform $(BIN)/python -m hatchling build -d dist -t wheel || exit 1; \
	done

clean: ## remove everything that make created, but the models: those in dist/models took hours
	rm -rf .venv .venv-* $(NODE)/node_modules .mypy_cache .pytest_cache .ruff_cache $(KERNEL)/libfolio-* \
		$(filter-out dist/models,$(wildcard dist/*))
