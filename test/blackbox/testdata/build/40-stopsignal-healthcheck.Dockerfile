FROM box
STOPSIGNAL 9
HEALTHCHECK --interval=3s --retries=2 CMD ["true"]
