# make parity: compare with the released code, all numbers.  make fixtures: the same, and rewrite tests/parity/fixtures.
# make shares: mask shares of 100,000 samples.  make bench: ours and theirs in one run, as a table and a plot.
# All four build .venv-official, an environment of its own, on the first call.
OFFICIAL   := .venv-official/bin/python
PARITY     := tests/parity
BENCH_ARGS ?=

.PHONY: parity fixtures shares bench

parity: .venv-official/.done
	PYTHONPATH=$(CURDIR) $(OFFICIAL) $(PARITY)/run.py

fixtures: .venv-official/.done
	PYTHONPATH=$(CURDIR) $(OFFICIAL) $(PARITY)/run.py --record

shares: .venv-official/.done
	PYTHONPATH=$(CURDIR) $(OFFICIAL) $(PARITY)/shares.py

bench: .venv-official/.done .venv/.dev
	mkdir -p out
	papermill nbs/experiments/bench.ipynb out/bench.ipynb --cwd nbs/experiments $(BENCH_ARGS)
	jupyter nbconvert --to html --log-level WARN out/bench.ipynb

.venv-official/.done: $(PARITY)/requirements.txt $(PARITY)/requirements-official.txt
	test -x $(OFFICIAL) || $(or $(PYTHON),python3) -m venv .venv-official
	$(OFFICIAL) -m pip install --disable-pip-version-check --quiet torch==2.13.0
	$(OFFICIAL) -m pip install --disable-pip-version-check --quiet -r $(PARITY)/requirements.txt
	$(OFFICIAL) -m pip install --disable-pip-version-check --quiet --no-deps -r $(PARITY)/requirements-official.txt
	touch $@
