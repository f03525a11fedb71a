# blksub: one Makefile, not recursive.  Each folder says in its module.mk what
# it builds and what it may use; `make help` lists the targets.

BUILD ?= build
V ?=
ifneq ($(V),)
B := $(BUILD)/$(V)
else
B := $(BUILD)
endif

ifeq ($(origin CC),default)
CC := gcc
endif
PKG_CONFIG ?= pkg-config
WERROR ?=
prefix ?= /usr/local
DESTDIR ?=

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wold-style-definition -Wvla -Wpointer-arith -Wwrite-strings -Wundef \
	-Wformat=2 -Wimplicit-fallthrough -Wcast-qual -fno-common
HARDEN := -fstack-protector-strong -fPIC
OPT := -O2 -g
ifeq ($(V),asan)
OPT := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined \
	-fno-sanitize-recover=undefined
else ifeq ($(V),tsan)
OPT := -O1 -g -fno-omit-frame-pointer -fsanitize=thread
else ifeq ($(V),cov)
OPT := -O0 -g --coverage
else ifeq ($(V),fuzz)
OPT := -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined
else
HARDEN += -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
endif
CFLAGS_ALL := -std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 $(WARN) \
	$(WERROR) $(HARDEN) $(OPT) $(CFLAGS)
LDFLAGS_ALL := $(OPT) -Wl,-z,relro,-z,now $(LDFLAGS) -pthread

VERSION := $(shell git describe --always --dirty 2>/dev/null || echo 0.1)

# ---- modules ---------------------------------------------------------------
# A module NAME sets  NAME_DIR, NAME_SRC, NAME_USES (modules), NAME_PKGS
# (pkg-config names).  Its objects see its own folder, its own include/, and
# the include/ of what it uses: an include that points up the layers is
# "No such file or directory".
MODULES :=
PROGS :=
include overlay-map/module.mk
include blockstore/module.mk
include hv/module.mk
include hv/xen/module.mk
include guest-agent/module.mk
include tools/module.mk

define recurse_uses
$(sort $(foreach u,$($(1)_USES),$(u) $(call recurse_uses,$(u))))
endef
define link_order
$(foreach m,tools hvxen hv bstore agent omap,$(filter $(m),$(1) $(call recurse_uses,$(1))))
endef
pkg_cflags = $(if $(1),$(shell $(PKG_CONFIG) --cflags $(1) 2>/dev/null))
pkg_libs = $(if $(1),$(shell $(PKG_CONFIG) --libs $(1) 2>/dev/null))
all_pkgs = $(sort $(foreach m,$(call link_order,$(1)),$($(m)_PKGS)))

define module_rules
$(1)_OBJ := $$(patsubst %.c,$$(B)/obj/%.o,$$($(1)_SRC))
$(1)_LIB := $$(B)/lib$(1).a
$(1)_INC := -I$$($(1)_DIR) -I$$($(1)_DIR)/include \
	$$(foreach u,$$(call recurse_uses,$(1)),-I$$($$(u)_DIR)/include) \
	-Iguest-agent/include
$(1)_PKG_CFLAGS := $$(call pkg_cflags,$$($(1)_PKGS) $$($(1)_PKGS_CFLAGS))
$$($(1)_OBJ): CFLAGS_MOD := $$($(1)_INC) $$($(1)_PKG_CFLAGS)
$$($(1)_LIB): $$($(1)_OBJ)
	@mkdir -p $$(@D)
	$$(Q)rm -f $$@ && $$(AR) rcs $$@ $$($(1)_OBJ)
lib-$(1): $$($(1)_LIB)
.PHONY: lib-$(1)
endef
$(foreach m,$(MODULES),$(eval $(call module_rules,$(m))))

ifeq ($(VERBOSE),)
Q := @
say = @echo "  $(1)"
else
Q :=
say = @:
endif

FLAGS_FILE := $(B)/flags
FLAGS_NOW := $(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL)
$(FLAGS_FILE): FORCE
	@mkdir -p $(@D)
	@echo '$(FLAGS_NOW)' | cmp -s - $@ || echo '$(FLAGS_NOW)' > $@
.PHONY: FORCE
FORCE:

$(B)/obj/%.o: %.c $(FLAGS_FILE)
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) $(CFLAGS_ALL) $(CFLAGS_MOD) -DBLKSUB_VERSION='"$(VERSION)"' \
		-MMD -MP -c -o $@ $<

# ---- programs --------------------------------------------------------------
libs_of = $(foreach m,$(call link_order,$(1)),$(B)/lib$(m).a)

$(B)/blksub: $(B)/libtools.a $(call libs_of,tools)
	$(call say,LD    $@)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ -Wl,--whole-archive $(B)/libtools.a \
		-Wl,--no-whole-archive $(filter-out $(B)/libtools.a,$(call libs_of,tools)) \
		$(call pkg_libs,$(call all_pkgs,tools))

$(B)/nbdkit-blksub-plugin.so: $(B)/obj/hv/nbdkit/plugin.o $(call libs_of,hv)
	$(call say,LD    $@)
	$(Q)$(CC) $(LDFLAGS_ALL) -shared -o $@ $< $(call libs_of,hv) \
		$(call pkg_libs,$(call all_pkgs,hv))
$(B)/obj/hv/nbdkit/plugin.o: CFLAGS_MOD := $(hv_INC) $(hv_PKG_CFLAGS)

$(B)/blksub-xen: $(B)/obj/hv/xen/main.o $(B)/libhvxen.a $(call libs_of,hvxen)
	$(call say,LD    $@)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $(filter %.o %.a,$^) \
		$(call pkg_libs,$(call all_pkgs,hvxen))
$(B)/obj/hv/xen/main.o: CFLAGS_MOD := $(hvxen_INC) $(hvxen_PKG_CFLAGS)

# The agent is static: a guest needs nothing but the file.  Sanitizers cannot
# be linked statically, so those variants build it dynamic.
AGENT_STATIC := $(if $(filter asan tsan fuzz,$(V)),,-static)
$(B)/blksub-agent: $(B)/obj/guest-agent/main.o $(B)/libagent.a
	$(call say,LD    $@)
	$(Q)$(CC) $(LDFLAGS_ALL) $(AGENT_STATIC) -o $@ $^ -lsodium
$(B)/obj/guest-agent/main.o: CFLAGS_MOD := $(agent_INC)

all: $(B)/blksub $(B)/nbdkit-blksub-plugin.so $(B)/blksub-agent $(B)/blksub-xen
.PHONY: all

include tests/module.mk

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)

# ---- dependencies, installation, help --------------------------------------
# tests/deps.list is the one list of Debian packages.
deps:
	tests/install-deps
demo:
	$(MAKE) deps
	$(MAKE) all
	images/demo
install: all
	install -D -m 755 $(B)/blksub $(DESTDIR)$(prefix)/bin/blksub
	install -D -m 755 $(B)/blksub-agent $(DESTDIR)$(prefix)/sbin/blksub-agent
	install -D -m 755 $(B)/nbdkit-blksub-plugin.so \
		$(DESTDIR)$(prefix)/lib/blksub/nbdkit-blksub-plugin.so
	install -D -m 755 $(B)/blksub-xen $(DESTDIR)$(prefix)/sbin/blksub-xen
	install -D -m 755 hv/xen/block-blksub $(DESTDIR)/etc/xen/scripts/block-blksub
	install -D -m 644 guest-agent/blksub-agent.service \
		$(DESTDIR)$(prefix)/lib/systemd/system/blksub-agent.service
	install -D -m 644 tools/blksub.bash-completion \
		$(DESTDIR)$(prefix)/share/bash-completion/completions/blksub
	for p in */man/*.[1-8]; do install -D -m 644 $$p \
		$(DESTDIR)$(prefix)/share/man/man$${p##*.}/$${p##*/}; done
clean:
	rm -rf $(BUILD)
help:
	@sed -n 's/^## //p' Makefile tests/module.mk
.PHONY: deps demo install clean help

## make             build build/blksub, the nbdkit plugin and the agent
## make deps        install what build, demo and tests need (apt-get)
## make demo        the whole story on a real Debian guest
## make check       all quick tests            (make check-long: the rest)
## make bench       speed, beside its rivals
## make V=asan ...  the same with ASan+UBSan   (also V=tsan, V=cov, V=fuzz)
## make install     DESTDIR= prefix=/usr/local
