# The Xen backend is a module of its own: the worker of an NBD guest needs no
# Xen library.
MODULES += hvxen
hvxen_DIR := hv/xen
hvxen_SRC := $(filter-out hv/xen/main.c,$(wildcard hv/xen/*.c))
hvxen_USES := hv bstore
hvxen_PKGS := xengnttab xenevtchn xentoollog xenstore
