# joulescale: `make run`, `make test` and `make check` are all there is to know.
# They set everything up by themselves on a machine that has Python, make and pip.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PEERS  := .venv-peers
RUNS   ?= runs
PORT   ?= 8501

LOCKED := $(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/
LOCKS  := requirements/test.lock requirements/torch-cpu.lock requirements/torch.lock
SBOM   := build/sbom.cdx.json

.PHONY: help run test check audit lock bench-overhead bench-sampler bench-gpu bench-accuracy bench-phases phenomena faults wheel clean

help:
	@echo "make run    train the cpu sweep of lm (about 4 minutes), print its table, plot it, open the dashboard"
	@echo "make test   every test, the browser's included"
	@echo "make bench-overhead   what the monitor costs a step"
	@echo "make bench-sampler   what the sampler's threads cost, and whether its memory grows (about 10 minutes)"
	@echo "make bench-gpu   check sensors and numbers on a machine with an NVIDIA GPU, about 7 minutes"
	@echo "make bench-accuracy   energy of windows against the truth, beside Zeus, CodeCarbon and carbontracker (12 minutes)"
	@echo "make bench-phases   do the error bars of energy by phase hold (about 4 minutes)"
	@echo "make phenomena   all nine workloads with their seeds: what showed, by its criterion, for how many joules (about 45 minutes; COUNTRY=FRA for grams)"
	@echo "make faults   the fault scorecard: real kills, full disks, hanging drivers, damaged files"
	@echo "make check  ruff, mypy --strict, import contracts, what is installed (an SBOM) and whether it is known to be unsafe"
	@echo "make audit  the same question, and it must be answered; make lock  newer versions of everything"

# Nothing is installed that the locks do not know by hash. Torch is the CPU build where an index or a folder of wheels
# has it, else the index's own, with NVIDIA's libraries.
$(STAMP): pyproject.toml $(LOCKS)
	$(PYTHON) -m venv $(VENV)
	$(LOCKED)test.lock
	$(LOCKED)torch-cpu.lock || $(LOCKED)torch.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

run: $(STAMP)
	$(BIN)/joulescale sweep lm --preset cpu --runs-dir $(RUNS)
	$(BIN)/joulescale scale --runs-dir $(RUNS) --x energy_j --y loss --plot scale.svg > /dev/null
	@echo "chart written to scale.svg"
	@if [ -t 1 ]; then $(BIN)/joulescale dashboard --runs-dir $(RUNS) --port $(PORT); \
	else echo "see the charts with: $(BIN)/joulescale dashboard --runs-dir $(RUNS)"; fi

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pip check
	@mkdir -p $(dir $(SBOM))
	$(BIN)/cyclonedx-py environment --no-validate --output-reproducible --pyproject pyproject.toml --output-file $(SBOM)
	$(BIN)/python requirements/audit.py

audit: $(STAMP)
	$(BIN)/python requirements/audit.py --strict

lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet "uv>=0.9"
	PATH="$(CURDIR)/.venv-lock/bin:$$PATH" .venv-lock/bin/python requirements/lock.py

bench-overhead: $(STAMP)
	$(BIN)/python benchmarks/overhead.py --output benchmarks/results/overhead.json

bench-sampler: $(STAMP)
	$(BIN)/python benchmarks/sampler.py --output benchmarks/results/sampler.json

bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py --output benchmarks/results/gpu

$(PEERS)/.installed:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet zeus==0.16.0 codecarbon==3.3.2 carbontracker==2.4.7 numpy
	@touch $@

bench-accuracy: $(STAMP) $(PEERS)/.installed
	$(BIN)/python benchmarks/accuracy.py --peers $(PEERS)

bench-phases: $(STAMP)
	$(BIN)/python benchmarks/phase_energy.py --output benchmarks/results/phase_energy.json

phenomena: $(STAMP)
	$(BIN)/python benchmarks/phenomena.py --runs-dir $(RUNS) --output benchmarks/results $(if $(COUNTRY),--country $(COUNTRY))

faults: $(STAMP)
	$(BIN)/python benchmarks/faults.py --output benchmarks/results

wheel: $(STAMP)
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) $(PEERS) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
