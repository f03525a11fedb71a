MODULES += hv
hv_DIR := hv
hv_SRC := $(wildcard hv/*.c)
hv_USES := bstore
hv_PKGS := jansson
hv_PKGS_CFLAGS := nbdkit
