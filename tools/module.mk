MODULES += tools
tools_DIR := tools
tools_SRC := $(wildcard tools/*.c tools/publish/*.c)
tools_USES := hv
tools_PKGS := ext2fs com_err blkid libsodium jansson
