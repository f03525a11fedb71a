# All but main.c is a library, so that tests drive it without a guest.
MODULES += agent
agent_DIR := guest-agent
agent_SRC := $(filter-out guest-agent/main.c,$(wildcard guest-agent/*.c))
agent_USES :=
agent_PKGS := libsodium
