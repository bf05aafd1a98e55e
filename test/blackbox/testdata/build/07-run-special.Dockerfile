FROM box
RUN mkfifo /fifo && mkdir -m 1777 /sticky && touch /suid && chmod 4755 /suid
