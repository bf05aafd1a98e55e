# A thin front: ./run is where the targets live, because a machine with only
# Go and git has no make.

.PHONY: build run test check bench lab fuzz race clean

build run test check bench lab race clean:
	@./run $@

# make fuzz FUZZTIME=1m
fuzz:
	@FUZZTIME=$(FUZZTIME) ./run fuzz

FUZZTIME ?= 10s
.DEFAULT_GOAL := build
