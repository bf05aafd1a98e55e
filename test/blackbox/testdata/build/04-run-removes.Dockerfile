FROM box
RUN mkdir /d && touch /d/a /d/b
RUN rm /d/a && rm /etc/group
