.PHONY: help check debug nightly

help:            ## what there is
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

check:           ## style, types and the fast tests
	./wm ruff check .
	./wm ruff format --check .
	./wm pyright
	./wm pytest

debug:           ## every experiment at size=debug: train, validate, save, resume, evaluate, roll out; half an hour
	./wm pytest -m nightly -k whole_chain_of_every_experiment

nightly:         ## the tests that take tens of minutes
	./wm pytest -m nightly $(if $(only),-k "$(only)") --record=benchmarks/results/nightly/latest.json
