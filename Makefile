# Every target sets up what it needs in .venv; nothing else has to be installed by hand.
PYTHON ?= python3
CONFIG ?= edge
BOARD ?= ulx3s
VENV := .venv
comma := ,
BIN := $(VENV)/bin
DATA ?= /usr/share/datasets/fashion-mnist

.PHONY: run test test-torch nightly nightly-core nightly-system verilog lint types bench \
	synth bitstream train train-kjv study-adacomp cluster explore clean

run: $(VENV)/test
	$(BIN)/ulpcore run --config $(CONFIG)

# Learners whose cores exchange compressed gradients, all in RTL; CLUSTER has options of the command.
cluster: $(VENV)/test
	$(BIN)/ulpcore cluster $(CLUSTER)

test: $(VENV)/test
	$(BIN)/pytest -n auto --dist loadfile -m "not nightly"

# The tests that need PyTorch, which `make test` leaves out where it is not installed.
test-torch: $(VENV)/test-torch
	$(BIN)/pytest -n auto --dist loadfile tb/test_torch_hook.py tb/test_adacomp_study.py

# The long regressions, of the core and of what stands beside it: compression and interconnect.
SYSTEM_TESTS := $(addprefix tb/test_,$(addsuffix .py,adacomp_encoder cluster collective collective_cycles \
	compression_engine compression_engine_faults compression_rows core_cluster delivery explorer_calibration proofs_deadlock \
	proofs_interconnect router topology))
nightly: nightly-core nightly-system

nightly-core: $(VENV)/test
	$(BIN)/pytest -n auto --dist load -m nightly $(addprefix --ignore=,$(SYSTEM_TESTS)) \
		--results=bench/results/nightly-core.json

nightly-system: $(VENV)/test
	$(BIN)/pytest -n auto --dist load -m nightly $(SYSTEM_TESTS) \
		--results=bench/results/nightly-system.json

verilog: $(VENV)/test
	$(BIN)/ulpcore generate --config $(CONFIG) --output build

# With the board's own core, if CONFIG is not given; BUILD has options: --seeds 1 2 --jobs 2
bitstream: $(VENV)/synth
	$(BIN)/ulpcore build --board $(BOARD) \
		$(if $(filter file,$(origin CONFIG)),,--config $(CONFIG)) $(BUILD)

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ulpcore lint --config edge
	$(BIN)/ulpcore lint --config nano
	$(BIN)/ulpcore lint --config rapid
	$(BIN)/ulpcore lint --compression
	$(BIN)/ulpcore lint --interconnect
	$(BIN)/ulpcore lint --config nano --cluster 2

types: $(VENV)/test
	$(BIN)/basedpyright --pythonpath $(BIN)/python

bench: $(VENV)/test
	$(BIN)/python bench/run.py

synth: $(VENV)/synth
	$(BIN)/python bench/synthesis.py --config $(CONFIG)

train: $(VENV)/train
	$(BIN)/python examples/fashion_mnist/train.py --seeds 0 1 2 --data $(DATA) \
		--output examples/fashion_mnist

train-kjv: $(VENV)/train
	$(BIN)/python examples/kjv/train.py --output examples/kjv

# What is there already is not run again; STUDY names a part: --part cnn --learners 8 --seeds 0
study-adacomp: $(VENV)/study
	$(BIN)/python bench/study_adacomp.py --data $(DATA) $(STUDY)

# A small study of interconnects; it goes on where it was. EXPLORE="--study" is the full one.
explore: $(VENV)/test
	$(BIN)/python bench/explorer.py $(EXPLORE)

$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and \
		'Python 3.11 or newer is needed, not ' + sys.version)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/test $(VENV)/test-torch $(VENV)/synth $(VENV)/train $(VENV)/study: \
		$(VENV)/%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable ".[$(subst -,$(comma),$*)]"
	touch $@

clean:
	rm -rf $(VENV) build
