FROM box
RUN mkdir /d && touch /d/a
RUN rm -r /d && mkdir /d && touch /d/b
