# One command each: set up, test, check. Everything lives in .venv; nothing is installed elsewhere except the
# system packages, and those only as root on a Debian-like system, or when asked for.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := ffmpeg redis-server
CONTAINER_PACKAGES := docker.io docker-compose iptables debootstrap
TEST_PROCESSES ?= 2
MARIONETTE ?= build/marionette
# The newest of them; OTHER_PYTHONS="$$(python3 tests/pythons/find_pythons.py)" runs on each that is there.
OTHER_PYTHONS ?= $(lastword $(shell $(PYTHON) tests/pythons/find_pythons.py))

.PHONY: demo test check fix setup system-packages test-serving fuzz faults soak hosts containers container-packages bench bench-exports bench-marionette train-all marionette bundle schema clean

# The serving half alone, and a look at what it does: no torch, no ffmpeg.
demo: .venv-demo/.installed
	.venv-demo/bin/tal demo

.venv-demo/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu]'
	touch $@

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,train,dev]'
	touch $(STAMP)

# Missing system packages are installed when that is allowed; tests that need them skip otherwise, and fail in CI.
test: setup
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { command -v ffprobe && command -v redis-server; } >/dev/null; then \
		$(MAKE) system-packages; fi
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --max-worker-restart 2
	$(MAKE) test-serving

# The serving half, installed without the development tools, on the newest other Python that is present.
test-serving: setup
	@for python in $(OTHER_PYTHONS); do sh tests/pythons/on_python.sh $$python || exit 1; done

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

system-packages:
	@if [ "$$(id -u)" != 0 ]; then echo "as root: apt-get install --no-install-recommends $(PACKAGES)"; exit 1; fi
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES)

# Full counts; the suite runs about a tenth of them.
fuzz: setup
	$(BIN)/python -m tests.fuzz.fuzz_video --count 500 --seed 0 --output benchmarks/results/fuzz_video.md
	$(BIN)/python -m tests.fuzz.fuzz_uploads --seed 0 --output benchmarks/results/fuzz_uploads.md
	TAL_SCHEMATHESIS_EXAMPLES=200 $(BIN)/python -m pytest tests/service/api/test_schemathesis.py

# Real processes, killed, stopped and starved; a table of what became of the promises (docs/faults.md).
faults: setup
	$(BIN)/python -m tests.faults.run --scale full --output benchmarks/results/faults.md

# Two hosts without a shared folder, in network namespaces; where there may be none, that is printed and no failure.
hosts: setup
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v redis-server >/dev/null; then \
		$(MAKE) system-packages; fi
	$(BIN)/python -m tests.hosts.run --output benchmarks/results/hosts.md

# The images built and the stack run, hurt and taken down; where no engine can be started, that is printed and no failure.
containers: setup
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { command -v docker && command -v docker-compose && command -v debootstrap; } >/dev/null; then \
		$(MAKE) container-packages; fi
	$(BIN)/python -m tests.containers.run --output benchmarks/results/containers.md

container-packages:
	@if [ "$$(id -u)" != 0 ]; then echo "as root: apt-get install --no-install-recommends $(CONTAINER_PACKAGES)"; exit 1; fi
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(CONTAINER_PACKAGES)

soak: setup
	$(BIN)/python -m tests.soak.memory --fps 30 --output benchmarks/results/memory.md
	$(BIN)/python -m tests.soak.detector_memory --output benchmarks/results/detector_memory.md
	$(BIN)/python -m tests.soak.service_load --redis --output benchmarks/results/load.md

bench: setup bench-exports
	$(BIN)/python -m benchmarks.decoders
	$(BIN)/python -m benchmarks.evaluator

bench-exports: setup
	$(BIN)/python -m benchmarks.exports

# The benchmark, and the model that ships: rendered, trained and measured; each step goes on where it was stopped, and what
# was made from something older is made again.
M := $(MARIONETTE)
PLANS := training/marionette/plans
TAL := $(BIN)/tal

marionette: $(M)/actionformer/result.json

bundle: $(M)/bundle/manifest.json
	rm -rf models/bundles/marionette
	cp -r $(M)/bundle models/bundles/marionette

# Over three seeds, and against models that see less.
bench-marionette: $(M)/actionformer/result.json $(M)/features-tsn-rgb/.done
	$(BIN)/python -m benchmarks.marionette --folder $(M)

# Every detector and every ablation of benchmarks/studies.py, on features of the bundle that ships; what is on record is not
# trained again.
train-all: $(M)/features/.done $(M)/motion/.done
	$(BIN)/python -m benchmarks.detectors --folder $(M)

$(M)/features/.done: $(M)/.rendered
	$(TAL) extract $(M)/videos --bundle models/bundles/marionette --out $(@D) --workers 2
	touch $@

$(M)/motion/.done: $(M)/.rendered
	$(TAL) motion $(M)/videos --out $(@D) --fps 10 --workers 2
	touch $@

$(M)/.rendered: | setup
	$(TAL) synth $(M)
	touch $@

$(M)/%/weights.safetensors: $(PLANS)/%.json $(M)/.rendered
	cp $(PLANS)/$*.json $(M)/
	$(TAL) pretrain $(M)/$*.json --out $(M)/$*

$(M)/backbone-%/manifest.json: $(M)/%/weights.safetensors
	rm -rf $(@D) $(M)/features-$*
	$(TAL) export $(M)/$*/recipe.json --out $(@D)

$(M)/features-%/.done: $(M)/backbone-%/manifest.json
	$(TAL) extract $(M)/videos --bundle $(M)/backbone-$* --out $(@D)
	touch $@

$(M)/actionformer/result.json: $(PLANS)/actionformer.json $(M)/features-i3d-rgb/.done
	cp $(PLANS)/actionformer.json $(M)/
	$(TAL) train $(M)/actionformer.json --out $(M)/actionformer

$(M)/bundle/manifest.json: $(PLANS)/bundle.json $(M)/actionformer/result.json
	cp $(PLANS)/bundle.json $(M)/
	rm -rf $(M)/bundle
	$(TAL) export $(M)/bundle.json --out $(M)/bundle

.PRECIOUS: $(M)/%/weights.safetensors $(M)/backbone-%/manifest.json $(M)/features-%/.done

schema: setup
	$(BIN)/python -m tests.models.bundle_schema > docs/bundle.schema.json
	$(BIN)/python -m tests.service.write_settings docs/settings.md
	$(BIN)/python -m tests.service.api.write_openapi > docs/openapi.json

clean:
	rm -rf $(VENV) .venv-*
