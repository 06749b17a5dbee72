# `just` shows what there is. Each recipe is a line that can be typed by hand, too.

_default:
    @just --list --unsorted

# Try it: the relay on a simulated Microsoft 365
sandbox *ARGS:
    cargo run --release -- sandbox {{ARGS}}

# The daemon, with a configuration file
run CONFIG:
    cargo run --release -- serve --config {{CONFIG}}

# The tests that need nothing but Rust
test *ARGS:
    cargo test {{ARGS}}

# Everything, as CI does: installs what is missing, with sudo if need be
test-all:
    scripts/test

# The release build for other machines: no path of this one is in it
release:
    scripts/build-release

# The Debian packages, for target/debian
package *ARGS:
    scripts/package {{ARGS}}

# The release build, as a user starts it
smoke:
    scripts/build-release
    scripts/smoke

# Format and clippy
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings

# Misspellings, by the typos that scripts/test has installed
spelling:
    target/typos/bin/typos

# Licences, sources, banned crates; then known vulnerabilities, which needs github.com
deny:
    cargo deny check bans licenses sources
    cargo deny check advisories

# The documentation of all rooms
doc *ARGS:
    RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --document-private-items {{ARGS}}

# Random octets for a target of src/fuzzing.rs, a minute unless told otherwise; needs a nightly Rust and cargo-fuzz
fuzz TARGET *ARGS="-max_total_time=60":
    mkdir -p fuzz/found/{{TARGET}}
    cargo +nightly fuzz run --sanitizer none {{TARGET}} fuzz/found/{{TARGET}} fuzz/corpus/{{TARGET}} -- \
        -dict=fuzz/dictionaries/{{TARGET}}.dict -timeout=10 -max_len=4096 {{ARGS}}

# The memory of 2000 clients that are connected and silent: fails above 60 MB
idle-connections:
    cargo build --release
    scripts/idle-connections

# How fast the spool is, beside its goals and what the disk can do: all rows, or those named; --list, --quick
bench-spool *ARGS:
    cargo bench --bench spool -- {{ARGS}}

# Accepted and delivered a second, beside Postfix; needs root
bench-smtp *ARGS:
    scripts/bench-smtp {{ARGS}}

# Files picked up a second
bench-pickup *ARGS:
    scripts/bench-pickup {{ARGS}}

# How fast mail leaves, with a simulated Microsoft 365.
bench-deliver *ARGS:
    cargo bench --bench deliver -- {{ARGS}}

# What ten thousand tenants cost: to load, to look up, to log in
bench-tenants *ARGS:
    cargo bench --bench tenants -- {{ARGS}}
