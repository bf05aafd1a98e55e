FROM box AS build
RUN mkdir /o && echo built > /o/bin && chown 9:9 /o/bin && ln -s bin /o/l
FROM box
COPY --from=build /o /opt
