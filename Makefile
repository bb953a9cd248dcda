# Two commands: `make demo` and `make test`. Both set up what is missing first.

PYTHON ?= python3
VIDEO ?=
MODEL ?=
TESTS ?=
ARGS ?=

RUN := .venv/bin/python
SAMPLE := samples/sports2d.mp4
PROGRAMS := dev/bootstrap dev/check-install dev/demo-video $(wildcard scripts/*)

# What colcon has installed into .venv, for programs that look it up. The shell's own comes after it.
export AMENT_PREFIX_PATH := $(CURDIR)/.venv$(if $(AMENT_PREFIX_PATH),:$(AMENT_PREFIX_PATH))
export LD_LIBRARY_PATH := $(CURDIR)/.venv/lib$(if $(LD_LIBRARY_PATH),:$(LD_LIBRARY_PATH))

.PHONY: help setup demo test lint clean

help:
	@echo "make demo    find actions in a video: VIDEO=path, or VIDEO=0 for a camera; MODEL=name or folder"
	@echo "make test    run the tests: TESTS=path of some, ARGS=options of pytest"
	@echo "make lint    check style and spelling"
	@echo "make setup   set up only: PYTHON=path of a Python 3.10 to 3.13"
	@echo "make clean   remove all that was set up, built and written"

setup:
	@$(PYTHON) dev/bootstrap

demo: setup
ifeq ($(VIDEO),)
	@$(RUN) dev/demo-video $(SAMPLE)
endif
	@$(RUN) -m amma_ros.demo --video "$(or $(VIDEO),$(SAMPLE))" $(if $(MODEL),--model "$(MODEL)") $(ARGS)

test: setup
	@$(RUN) -m pytest $(TESTS) $(ARGS)

lint: setup
	@$(RUN) -m ruff check . $(PROGRAMS)
	@$(RUN) -m ruff format --check . $(PROGRAMS)
	@git ls-files -z --cached --others --exclude-standard | xargs -0 $(RUN) -m codespell_lib

clean:
	rm -rf .venv build install log dist demo.mp4 demo_bag $(SAMPLE)
	find . -name __pycache__ -prune -exec rm -rf {} +
