FROM box
ENTRYPOINT ["/bin/echo"]
CMD ["a", "b"]
