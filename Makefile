# Everything a developer types. `make help` lists it.
BIN := target/dist
CARGO := PATH="$$PATH:$${CARGO_HOME:-$$HOME/.cargo}/bin" cargo

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-17s %s\n", $$1, $$2}' Makefile

setup: ## install what is missing (apt, rustup)
	@contrib/setup.sh

build: setup ## the two binaries, linked statically, into target/dist
	@contrib/build.sh

demo: build ## play the main job with Docker, and leave it running
	demo/up.sh $(BIN)

demo-down: ## take away what the demo made
	demo/down.sh $(BIN)

lab: setup ## three nodes and an etcd on this machine; type into them: `cargo xtask lab exec node1 -- …` (needs root)
	$(CARGO) xtask lab up

lab-down: ## take the lab away
	$(CARGO) xtask lab down

test: setup ## the whole test suite (needs root)
	@contrib/test.sh

test-kernels: setup ## what loads packet programs, on Debian's 6.1 and 6.12 in virtual machines (needs root; slow)
	@contrib/test-kernels.sh $(FILTER)

# One test for each thing that differs between kernels: the verifier and the stack, clsact and tcx, tunnels by device and
# by programs, ends of policy and restarts. The limit is of each kernel, in seconds.
CORE := verifier:: geneve::what_leaves policy::a_policy_that_no_longer native::addresses tunnel::programs_and_devices

test-kernels-core: setup ## of test-kernels what differs most between kernels
	@LIMIT=600 contrib/test-kernels.sh $(CORE)

check: setup ## formatting, clippy, fences, generated files
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) xtask floorplan
	$(CARGO) xtask abi --check
	$(CARGO) xtask verify --stack

bench: build ## measure everything, each row beside its comparison (needs root)
	contrib/bench.sh $(BIN)

install: build ## binaries to /usr/local/bin, systemd units
	install -m 755 $(BIN)/cilium $(BIN)/cilium-agent /usr/local/bin/
	install -m 644 daemon/systemd/*.service /etc/systemd/system/

.PHONY: help setup build demo demo-down lab lab-down test test-kernels test-kernels-core check bench install
