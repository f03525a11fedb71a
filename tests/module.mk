# Every test is a program or a script; adding a file adds a test.
#   tests/unit/FOLDER/test_*.c  linked with FOLDER and what it uses
#   tests/model, tests/fault    Check programs, linked with bstore
#   tests/fuzz/fuzz_*.c         LLVMFuzzerTestOneInput, replayed over corpus/
#   tests/bench/bench_*.c       run by `make bench` alone; *_plugin.c for nbdkit
#   tests/e2e/*.sh              exit 77 = this host lacks what it takes
#   tests/e2e/long/*.sh         for check-long

mod_of_overlay-map := omap
mod_of_blockstore := bstore
mod_of_hv := hv
mod_of_hv-xen := hvxen
mod_of_guest-agent := agent
mod_of_tools := tools

T := $(B)/tests
TEST_INC := -Itests -Ioverlay-map/include -Iblockstore/include -Ihv/include \
	-Ihv/xen/include -Iguest-agent/include
TEST_PKGS := check
TEST_BINS :=

# $(1) source, $(2) module, $(3) extra include, $(4) archive beside the module's
define test_prog
$(B)/obj/$(1:.c=.o): CFLAGS_MOD := $(TEST_INC) $(3) $$(call pkg_cflags,$(TEST_PKGS) $(call all_pkgs,$(2)))
$(T)/$(1:tests/%.c=%): $(B)/obj/$(1:.c=.o) $(4) $(call libs_of,$(2))
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(LDFLAGS_ALL) -o $$@ $$(filter %.o %.a,$$^) \
		$$(call pkg_libs,$(TEST_PKGS) $(call all_pkgs,$(2)))
TEST_BINS += $(T)/$(1:tests/%.c=%)
endef

$(foreach f,overlay-map blockstore hv hv-xen guest-agent tools,\
  $(foreach s,$(wildcard tests/unit/$(f)/test_*.c),\
    $(eval $(call test_prog,$(s),$(mod_of_$(f)),-I$($(mod_of_$(f))_DIR)))))
$(foreach s,$(wildcard tests/model/test_*.c),\
  $(eval $(call test_prog,$(s),bstore,-Iblockstore)))

# What several of the fault programs share; each takes what it needs.
FAULT_TESTS := $(wildcard tests/fault/test_*.c)
FAULT_OBJ := $(patsubst %.c,$(B)/obj/%.o,$(wildcard tests/disk/*.c) \
	$(filter-out $(FAULT_TESTS),$(wildcard tests/fault/*.c)))
$(FAULT_OBJ): CFLAGS_MOD := $(TEST_INC) $(call pkg_cflags,$(TEST_PKGS) $(call all_pkgs,bstore))
$(T)/libfault.a: $(FAULT_OBJ)
	@mkdir -p $(@D)
	$(Q)rm -f $@ && $(AR) rcs $@ $^
$(foreach s,$(FAULT_TESTS),\
  $(eval $(call test_prog,$(s),bstore,-Iblockstore,$(T)/libfault.a)))

# Fuzz targets say on their first line which module they need:
#   /* fuzz: omap */
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_NAMES := $(patsubst tests/fuzz/fuzz_%.c,%,$(FUZZ_SRC))
fuzz_mod = $(shell sed -n '1s/.*fuzz: \([a-z]*\).*/\1/p' tests/fuzz/fuzz_$(1).c)
$(B)/obj/tests/fuzz/replay.o: CFLAGS_MOD := $(TEST_INC)
define fuzz_prog
$(B)/obj/tests/fuzz/fuzz_$(1).o: CFLAGS_MOD := $(TEST_INC) -I$$($(call fuzz_mod,$(1))_DIR) $$(call pkg_cflags,$(call all_pkgs,$(call fuzz_mod,$(1))))
$(T)/fuzz/replay_$(1): $(B)/obj/tests/fuzz/fuzz_$(1).o $(B)/obj/tests/fuzz/replay.o \
		$(call libs_of,$(call fuzz_mod,$(1)))
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(LDFLAGS_ALL) -o $$@ $$(filter %.o %.a,$$^) \
		$$(call pkg_libs,$(call all_pkgs,$(call fuzz_mod,$(1))))
$(T)/fuzz/fuzz_$(1): $(B)/obj/tests/fuzz/fuzz_$(1).o $(call libs_of,$(call fuzz_mod,$(1)))
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(LDFLAGS_ALL) -fsanitize=fuzzer -o $$@ $$(filter %.o %.a,$$^) \
		$$(call pkg_libs,$(call all_pkgs,$(call fuzz_mod,$(1))))
fuzz-$(1):
	$$(MAKE) V=fuzz CC=clang $(BUILD)/fuzz/tests/fuzz/fuzz_$(1)
	mkdir -p $(BUILD)/fuzz/corpus/$(1)
	$(BUILD)/fuzz/tests/fuzz/fuzz_$(1) -max_total_time=$$(or $$(TIME),60) \
		$(BUILD)/fuzz/corpus/$(1) tests/fuzz/corpus/$(1)
.PHONY: fuzz-$(1)
TEST_BINS += $(T)/fuzz/replay_$(1)
endef
$(foreach n,$(FUZZ_NAMES),$(eval $(call fuzz_prog,$(n))))

# Benchmarks of a library alone, linked with bstore.  Not run by check.
BENCH_BINS :=
define bench_prog
$(B)/obj/$(1:.c=.o): CFLAGS_MOD := $(TEST_INC) $$(call pkg_cflags,$(call all_pkgs,bstore))
$(T)/$(1:tests/%.c=%): $(B)/obj/$(1:.c=.o) $(call libs_of,bstore)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(LDFLAGS_ALL) -o $$@ $$(filter %.o %.a,$$^) \
		$$(call pkg_libs,$(call all_pkgs,bstore))
BENCH_BINS += $(T)/$(1:tests/%.c=%)
endef
$(foreach s,$(wildcard tests/bench/bench_*.c),$(eval $(call bench_prog,$(s))))

$(B)/obj/tests/bench/switch_plugin.o: CFLAGS_MOD := $(TEST_INC)
$(T)/bench/switch_plugin.so: $(B)/obj/tests/bench/switch_plugin.o $(call libs_of,bstore)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) -shared -o $@ $^ $(call pkg_libs,$(call all_pkgs,bstore))
BENCH_BINS += $(T)/bench/switch_plugin.so

# Every public header compiles alone.
HEADERS := $(wildcard */include/*.h */include/*/*.h */*/include/*.h)
headers-alone: $(HEADERS:%=$(T)/alone/%.ok)
$(T)/alone/%.ok: % $(FLAGS_FILE)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) $(TEST_INC) $(call pkg_cflags,jansson) \
		-x c -include $< -fsyntax-only /dev/null && touch $@
.PHONY: headers-alone

# overlay-map does no I/O; blockstore does its through file.c.
purity: $(B)/libomap.a $(B)/libbstore.a
	$(Q)tests/purity $(B)/libomap.a
	$(Q)tests/file-layer $(B)/libbstore.a
.PHONY: purity

JOBS ?= $(shell nproc)
E2E := $(wildcard tests/e2e/*.sh)
E2E_LONG := $(wildcard tests/e2e/long/*.sh)
# Programs that scripts of e2e run.
E2E_HELPERS := $(T)/bench/bench_prep

## make check-unit  unit, model, fault and fuzz-replay tests alone
check-unit: $(TEST_BINS) headers-alone purity
	B=$(abspath $(B)) tests/run -j $(JOBS) $(TEST_BINS)
check:
	tests/install-deps --quiet
	$(MAKE) all
	$(MAKE) check-all
check-all: all $(TEST_BINS) $(E2E_HELPERS) headers-alone purity
	B=$(abspath $(B)) tests/run -j $(JOBS) $(TEST_BINS) $(E2E)
check-long: all $(TEST_BINS) $(E2E_HELPERS)
	B=$(abspath $(B)) LONG=1 tests/run -j 1 --timeout 3600 $(TEST_BINS) $(E2E) $(E2E_LONG)
## make check-xen   on real Xen in QEMU, which it fetches from Debian's archive
check-xen:
	tests/install-deps --quiet
	$(MAKE) all
	B=$(abspath $(B)) tests/run -j $(JOBS) --timeout 1500 $(wildcard tests/xen/*.sh)
bench: all $(BENCH_BINS)
	B=$(abspath $(B)) tests/bench/run
tests-build: $(TEST_BINS) $(E2E_HELPERS)
.PHONY: check-xen check check-unit check-all check-long bench tests-build
